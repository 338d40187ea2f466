import csv
import io
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from datamodules.checks.cohort_problems import class_names
from datamodules.reading.cohort_table import read_cohort_table
from datamodules.splits import (
    Splits,
    fold_runs,
    hold_out,
    make_splits,
    patients_of,
    read_splits,
)

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=6)


@st.composite
def cohorts(draw):
    """The text of a table: patients with one to four scans each, labels per scan or patient."""
    names = draw(st.lists(NAMES, min_size=6, max_size=24, unique=True))
    names = [*names[:-3], "007", "NA", "1e3"]  # what a careless reader would change
    names = list(dict.fromkeys(names))
    num_classes = draw(st.integers(2, 3))
    per_scan = draw(st.booleans())
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for name in names:
        label = generator.integers(num_classes)
        for _ in range(generator.integers(1, 5)):
            chosen = generator.integers(num_classes) if per_scan else label
            rows.append([name, f"class{chosen}"])
    generator.shuffle(rows)
    text = io.StringIO()
    end = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(text, delimiter=draw(st.sampled_from(",;\t")), lineterminator=end)
    writer.writerow(["patient_id", "label", "image"])
    writer.writerows([*row, f"{number}.nii"] for number, row in enumerate(rows))
    return text.getvalue(), names, per_scan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for number in range(100):
        (folder / f"{number}.nii").touch()  # the reader of tables asks for no more
    return folder


settings_of_splits = st.builds(
    Splits,
    scheme=st.sampled_from([*["k-fold"] * 9, "leave-one-patient-out"]),  # the last is slow
    protocol=st.sampled_from(["nested", "paper"]),
    num_folds=st.just(3),
    num_repeats=st.just(1),
    val_fraction=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 100),
)


@settings(max_examples=25, deadline=None)
@given(cohorts(), settings_of_splits)
def test_no_patient_is_in_two_parts_and_each_is_tested_once(folder, cohort, splits):
    _no_patient_is_in_two_parts(folder, cohort, splits)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(cohorts(), settings_of_splits)
def test_no_patient_is_in_two_parts_of_two_hundred_cohorts(folder, cohort, splits):
    _no_patient_is_in_two_parts(folder, cohort, splits)


def _no_patient_is_in_two_parts(folder, cohort, splits):
    text, names, per_scan = cohort
    (folder / "table.csv").write_text(text, encoding="utf-8", newline="")
    scans = read_cohort_table(folder / "table.csv")
    patients = [scan.patient_id for scan in scans]
    assert set(patients) == set(names)
    try:
        class_names(scans, labels_per="scan" if per_scan else "patient")
        table = make_splits(patients, [scan.label for scan in scans], splits)
    except ValueError:
        reject()
    tested = []
    for repeat, fold in fold_runs(table):
        parts = patients_of(table, repeat, fold)
        assert not parts["train"] & parts["test"]
        assert not parts["train"] & parts["val"]
        assert not parts["val"] & parts["test"]
        assert set().union(*parts.values()) == set(patients)
        assert parts["train"]
        assert parts["test"]
        validates = splits.protocol == "nested" and splits.val_fraction > 0
        assert bool(parts["val"]) == validates
        tested += parts["test"]
    assert sorted(tested) == sorted(set(patients))


def _cohort(num_patients=30):
    return [f"p{n}" for n in range(num_patients)], [
        "a" if n % 3 else "b" for n in range(num_patients)
    ]


def test_folds_have_the_classes_in_equal_shares():
    patients, labels = _cohort()
    label_of = dict(zip(patients, labels, strict=True))
    table = make_splits(patients, labels, Splits())
    for repeat, fold in fold_runs(table):
        test = patients_of(table, repeat, fold)["test"]
        assert sorted(label_of[p] for p in test) == ["a"] * 4 + ["b"] * 2


def test_the_seed_decides_the_division_and_repeats_differ():
    patients, labels = _cohort()
    first = make_splits(patients, labels, Splits(seed=1))
    assert first.equals(make_splits(patients, labels, Splits(seed=1)))
    assert not first.equals(make_splits(patients, labels, Splits(seed=2)))
    tests = first[first["part"] == "test"]
    assert set(tests[tests.repeat == 0][["fold", "patient_id"]].itertuples(index=False)) != set(
        tests[tests.repeat == 1][["fold", "patient_id"]].itertuples(index=False)
    )


def test_the_order_of_the_rows_in_a_split_does_not_depend_on_later_repeats():
    patients, labels = _cohort()
    few = make_splits(patients, labels, Splits(num_repeats=1))
    many = make_splits(patients, labels, Splits(num_repeats=3))
    assert few.equals(many[many["repeat"] == 0])


@pytest.mark.slow
@pytest.mark.parametrize("val_fraction", [0.0, 0.2])
def test_smaller_shares_of_the_training_patients_are_parts_of_larger_ones(val_fraction):
    patients, labels = _cohort(60)
    label_of = dict(zip(patients, labels, strict=True))
    tables = {
        share: make_splits(
            patients, labels, Splits(train_fraction=share, val_fraction=val_fraction)
        )
        for share in (0.01, 0.25, 0.5, 0.75, 1.0)
    }
    for fold_run in fold_runs(tables[1.0]):
        parts = {share: patients_of(table, *fold_run) for share, table in tables.items()}
        sizes = [len(parts[share]["train"]) / len(parts[1.0]["train"]) for share in tables]
        assert sizes[1:] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.04)
        for smaller, larger in itertools.pairwise(parts.values()):
            assert smaller["train"] <= larger["train"]
            assert smaller["test"] == larger["test"]
            assert smaller["val"] == larger["val"]
        assert {label_of[patient] for patient in parts[0.01]["train"]} == {"a", "b"}
    whole = make_splits(patients, labels, Splits(val_fraction=val_fraction))
    pd.testing.assert_frame_equal(tables[1.0], whole)


def test_leave_one_patient_out_has_a_fold_per_patient():
    patients, labels = _cohort(9)
    table = make_splits(patients, labels, Splits(scheme="leave-one-patient-out", num_repeats=1))
    assert len(fold_runs(table)) == 9


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10**6), st.sampled_from([0.0, 0.2]))
def test_leave_one_site_out_never_mixes_sites(num_sites, seed, fraction):
    generator = np.random.default_rng(seed)
    at = [*range(num_sites), *range(num_sites), *generator.integers(num_sites, size=20)]
    of_class = [0] * num_sites + [1] * num_sites + generator.integers(2, size=20).tolist()
    num_scans = generator.integers(1, 4, len(at))
    patients, sites, labels = (
        np.repeat(np.array([f"{prefix}{n}" for n in each]), num_scans)
        for prefix, each in (("p", range(len(at))), ("hospital", at), ("class", of_class))
    )
    order = generator.permutation(len(patients))
    wanted = Splits(scheme="leave-one-site-out", num_repeats=2, val_fraction=fraction)
    table = make_splits(patients[order], labels[order], wanted, sites[order])
    site_of = dict(zip(patients, sites, strict=True))
    assert len(fold_runs(table)) == 2 * num_sites
    left_out = []
    for repeat, fold in fold_runs(table):
        parts = patients_of(table, repeat, fold)
        (site,) = {site_of[patient] for patient in parts["test"]}
        assert site not in {site_of[patient] for patient in parts["train"] | parts["val"]}
        assert set().union(*parts.values()) == set(patients)
        left_out.append((repeat, site))
    assert len(set(left_out)) == len(left_out)


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (None, "Patient 'p0' has a scan without a site"),
        (["A", "B", "A", "A", "B", "A", "B"], "'p2' has scans of the sites 'A' and 'B'"),
        (["A", "A", "B", "B", "B", "A", "A"], "Class 'rare' is at the site 'A' alone"),
    ],
)
def test_sites_that_cannot_be_left_out_are_named(sites, words):
    patients, labels = ["p0", "p1", "p2", "p3", "p2", "p4", "p5"], [*"abab", "a", "rare", "rare"]
    with pytest.raises(ValueError, match=words):
        make_splits(patients, labels, Splits(scheme="leave-one-site-out"), sites)


def test_too_few_patients_in_a_class_names_the_class_and_the_fix():
    patients, labels = [f"p{n}" for n in range(10)], ["a"] * 7 + ["rare"] * 3
    with pytest.raises(ValueError, match=r"'rare' has 3 patients, .* Lower num_folds to 3"):
        make_splits(patients, labels, Splits(num_folds=5))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"num_folds": 1}, "num_folds is 1"),
        ({"train_fraction": 0.0}, "train_fraction is 0.0"),
    ],
)
def test_a_setting_out_of_range_is_named(setting, words):
    with pytest.raises(ValueError, match=words):
        make_splits(*_cohort(), Splits(**setting))


def test_a_written_table_is_read_back_with_ids_as_strings(tmp_path):
    table = make_splits(["001", "002", "NA", "4", "5", "6"], list("ababab"), Splits(num_folds=3))
    table.to_csv(tmp_path / "splits.csv", index=False)
    pd.testing.assert_frame_equal(read_splits(tmp_path), table, check_dtype=False)
    assert read_splits(tmp_path / "splits.csv")["patient_id"].tolist().count("001") == 3 * 5


def test_a_table_with_a_patient_in_two_parts_is_refused(tmp_path):
    table = make_splits(*_cohort(), Splits())
    doubled = pd.concat([table, table.iloc[:1].assign(part="test")])
    doubled.to_csv(tmp_path / "splits.csv", index=False)
    with pytest.raises(ValueError, match=r"lists patient 'p.*' twice in repeat 0, fold 0"):
        read_splits(tmp_path / "splits.csv")


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_about_the_wanted_share_of_patients_is_held_out(fraction):
    patients, labels = _cohort(60)
    held_out = hold_out(patients, labels, fraction, seed=3)
    assert len(held_out) == pytest.approx(60 * fraction, abs=1)
    assert {labels[row] for row in held_out} == {"a", "b"}


def test_a_missing_fold_is_named():
    with pytest.raises(ValueError, match=r"no repeat 0, fold 9: .* folds 0 to 4"):
        patients_of(make_splits(*_cohort(), Splits()), 0, 9)


def test_all_others_train_unless_a_fraction_of_them_validates():
    tables = {
        fraction: make_splits(*_cohort(), Splits(num_folds=3, val_fraction=fraction))
        for fraction in (0.0, 0.2)
    }
    assert set(tables[0.0]["part"]) == {"train", "test"}
    assert set(tables[0.2]["part"]) == {"train", "val", "test"}
    tested = [table[table["part"] == "test"].drop(columns="part") for table in tables.values()]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tested))
