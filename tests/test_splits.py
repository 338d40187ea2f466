import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from datamodules.splits import (
    Splits,
    cells,
    hold_out,
    make_splits,
    patients_of,
    protocol_of,
    read_splits,
)


@st.composite
def cohorts(draw):
    """Patients with one to four scans each, and labels per scan or per patient."""
    num_patients = draw(st.integers(6, 24))
    num_classes = draw(st.integers(2, 3))
    per_scan = draw(st.booleans())
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    patients, labels = [], []
    for patient in range(num_patients):
        label = generator.integers(num_classes)
        for _ in range(generator.integers(1, 5)):
            patients.append(f"p{patient}")
            labels.append(f"class{generator.integers(num_classes) if per_scan else label}")
    return patients, labels


@settings(max_examples=200, deadline=None)
@given(
    cohorts(),
    st.sampled_from(["k-fold", "leave-one-patient-out"]),
    st.sampled_from(["nested", "paper"]),
    st.integers(0, 100),
)
def test_no_patient_is_in_two_parts_and_each_is_tested_once(cohort, scheme, protocol, seed):
    patients, labels = cohort
    splits = Splits(scheme=scheme, protocol=protocol, num_folds=3, num_repeats=2, seed=seed)
    try:
        table = make_splits(patients, labels, splits)
    except ValueError:
        reject()
    for repeat in (0, 1):
        tested = []
        for fold in (fold for other, fold in cells(table) if other == repeat):
            parts = patients_of(table, repeat, fold)
            assert not parts["train"] & parts["test"]
            assert not parts["train"] & parts["val"]
            assert not parts["val"] & parts["test"]
            assert set().union(*parts.values()) == set(patients)
            assert parts["train"]
            assert parts["test"]
            assert bool(parts["val"]) == (protocol == "nested")
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
    for repeat, fold in cells(table):
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


def test_leave_one_patient_out_has_a_fold_per_patient():
    patients, labels = _cohort(9)
    table = make_splits(patients, labels, Splits(scheme="leave-one-patient-out", num_repeats=1))
    assert len(cells(table)) == 9


def test_too_few_patients_in_a_class_names_the_class_and_the_fix():
    patients, labels = [f"p{n}" for n in range(10)], ["a"] * 7 + ["rare"] * 3
    with pytest.raises(ValueError, match=r"'rare' has 3 patients, .* Lower num_folds to 3"):
        make_splits(patients, labels, Splits(num_folds=5))


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"val_fraction": 0.0}, "val_fraction is 0.0"), ({"num_folds": 1}, "num_folds is 1")],
)
def test_a_setting_out_of_range_is_named(setting, words):
    with pytest.raises(ValueError, match=words):
        make_splits(*_cohort(), Splits(**setting))


def test_a_written_table_is_read_back_with_ids_as_strings(tmp_path):
    table = make_splits(["001", "002", "NA", "4", "5", "6"], list("ababab"), Splits(num_folds=3))
    table.to_csv(tmp_path / "splits.csv", index=False)
    pd.testing.assert_frame_equal(read_splits(tmp_path), table, check_dtype=False)
    assert read_splits(tmp_path / "splits.csv")["patient_id"].tolist().count("001") == 9


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


@pytest.mark.parametrize("protocol", ["nested", "paper"])
def test_a_splits_table_tells_its_protocol(protocol):
    table = make_splits(*_cohort(), Splits(num_folds=3, num_repeats=2, protocol=protocol))
    assert protocol_of(table) == protocol


def test_one_fold_without_validation_patients_makes_a_table_optimistic():
    table = make_splits(*_cohort(), Splits(num_folds=3, num_repeats=1))
    assert protocol_of(table[(table["fold"] != 1) | (table["part"] != "val")]) == "paper"
