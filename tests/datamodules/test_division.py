import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.special import pseudo_huber
from scipy.stats import chisquare

from datamodules.division import divide
from datamodules.splits import Splits, fold_runs, hold_out, make_splits, patients_of

SIZES = {
    "one scan each": lambda generator, n: np.ones(n, dtype=int),
    "30, 25 or 1 scans": lambda generator, n: generator.choice([30, 25, 1], n),
    "most have few scans": lambda generator, n: np.ceil(generator.lognormal(1, 1, n)).astype(int),
    "one has nearly all scans": lambda generator, n: np.r_[10 * n, np.ones(n - 1, dtype=int)],
}


def _cohort(generator, sizes, num_classes, *, per_scan=False, least=2):
    """Patient and class of each scan; each class has at least `least` patients."""
    num_patients = len(sizes)
    label = generator.integers(num_classes, size=num_patients)
    certain = np.repeat(np.arange(num_classes), least)[:num_patients]
    label[generator.permutation(num_patients)[: len(certain)]] = certain
    patients = np.repeat([f"p{n}" for n in range(num_patients)], sizes)
    labels = np.repeat(label, sizes)
    if per_scan:
        labels = np.where(generator.random(len(labels)) < 0.3, 0, labels)
    return patients, labels.astype(str)


def _unevenness(counts, shares, missing, division):
    """What `divide` promises to make small, in plain words."""

    def distance(of_part, of_all, share):
        return 2 * pseudo_huber(0.1, of_part / of_all - share)

    cost = 0.0
    for part, share in enumerate(shares):
        inside = counts[division == part]
        cost += distance(len(inside), len(counts), share)
        cost += distance(inside.sum(), counts.sum(), share)
        for scans, all_scans in zip(inside.T, counts.T, strict=True):
            members = (scans > 0).sum()
            cost += missing[part] * (members == 0)
            cost += distance(members, (all_scans > 0).sum(), share) / counts.shape[1] / 4
            cost += distance(scans.sum(), all_scans.sum(), share) / counts.shape[1] / 4
    return cost


@pytest.mark.parametrize(
    ("shares", "missing"),
    [((0.1, 0.9), (10, 1e4)), ((0.4, 0.6), (10, 1e4)), ((1 / 3,) * 3, (10,) * 3)],
)
@pytest.mark.parametrize("sizes", list(SIZES))
def test_no_division_of_a_small_cohort_is_more_even(shares, missing, sizes):
    generator = np.random.default_rng(3)
    for trial in range(4):
        num_patients = 10 - 2 * len(shares) + trial % 2
        scans = SIZES[sizes](generator, num_patients)
        counts = np.array([generator.multinomial(n, [0.7, 0.3]) for n in scans])
        counts[:4] = [[1, 0], [0, 1], [1, 0], [0, 1]]
        chosen = divide(counts, np.array(shares), np.array(missing), generator)
        best = min(
            _unevenness(counts, shares, missing, np.array(division))
            for division in itertools.product(range(len(shares)), repeat=num_patients)
        )
        assert _unevenness(counts, shares, missing, chosen) == pytest.approx(best, abs=1e-4)


def _check_part_held_out(num_trials, seed):
    generator = np.random.default_rng(seed)
    for trial in range(num_trials):
        num_patients, num_classes = generator.integers(8, 80), generator.integers(1, 5)
        sizes = SIZES[list(SIZES)[trial % 4]](generator, num_patients)
        patients, labels = _cohort(generator, sizes, num_classes, per_scan=trial % 3 == 0)
        fraction = generator.choice([0.1, 0.2, 0.3, 0.4, 0.5])
        rows = hold_out(patients, labels, fraction, seed=trial)
        chosen = set(patients[rows])
        assert not chosen & set(np.delete(patients, rows))
        for name in set(labels):
            members = set(patients[labels == name])
            if len(members) > 1:
                assert members & chosen
                assert members - chosen
        expected = fraction * num_patients
        assert expected - 1.5 <= len(chosen) <= max(expected + 1.5, num_classes)
        excess = abs(len(chosen) / num_patients - fraction)
        largest = sizes.max() / sizes.sum()
        assert len(rows) / len(patients) == pytest.approx(fraction, abs=largest + excess + 1e-9)


def test_the_part_held_out_is_as_large_as_asked_and_has_all_classes():
    _check_part_held_out(40, seed=0)


@pytest.mark.slow
def test_the_part_held_out_of_many_cohorts_is_as_large_as_asked_and_has_all_classes():
    _check_part_held_out(300, seed=1)


def _check_folds(num_trials, seed):
    generator = np.random.default_rng(seed)
    for trial in range(num_trials):
        num_folds, num_classes = generator.integers(2, 8), generator.integers(1, 4)
        num_patients = generator.integers(num_folds * num_classes, 90)
        sizes = SIZES[list(SIZES)[trial % 4]](generator, num_patients)
        patients, labels = _cohort(generator, sizes, num_classes, least=num_folds)
        class_of = dict(zip(patients, labels, strict=True))
        size_of = Counter(patients.tolist())
        settings = Splits(num_folds=int(num_folds), num_repeats=1, seed=trial, protocol="paper")
        table = make_splits(patients, labels, settings)
        tests = [patients_of(table, *fold_run)["test"] for fold_run in fold_runs(table)]
        sides = [len(test) for test in tests]
        allowed = 1 if sizes.max() == 1 else 3
        assert max(sides) - min(sides) <= min(allowed, 2)
        for name in set(labels):
            members = [sum(class_of[each] == name for each in test) for test in tests]
            assert min(members) >= 1
            assert max(members) - min(members) <= allowed
        scans = [sum(size_of[each] for each in test) for test in tests]
        assert max(scans) <= len(patients) / num_folds + sizes.max()


def test_folds_are_even_in_patients_scans_and_classes():
    _check_folds(20, seed=0)


@pytest.mark.slow
def test_the_folds_of_many_cohorts_are_even():
    _check_folds(160, seed=1)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_each_fraction_is_met_where_patients_have_one_scan_each(fraction):
    patients, labels = [f"p{n}" for n in range(50)], ["a"] * 20 + ["b"] * 30
    table = make_splits(patients, labels, Splits(val_fraction=fraction))
    for fold_run in fold_runs(table):
        parts = patients_of(table, *fold_run)
        assert len(parts["test"]) == 10
        assert len(parts["val"]) == round(40 * fraction)
        in_val = [
            label for name, label in zip(patients, labels, strict=True) if name in parts["val"]
        ]
        assert in_val.count("a") == pytest.approx(16 * fraction, abs=1)


def test_one_patient_with_nearly_all_scans_is_trained_on_or_tested_and_never_validates():
    patients = ["giant"] * 300 + [f"p{n}" for n in range(30)]
    table = make_splits(patients, ["a"] * 315 + ["b"] * 15, Splits(val_fraction=0.2))
    for fold_run in fold_runs(table):
        parts = patients_of(table, *fold_run)
        assert "giant" not in parts["val"]
        assert len(parts["val"]) in (4, 5, 6)


def test_patients_with_30_25_and_1_scans_give_validation_its_share_of_scans():
    sizes = [30, 25, 1] * 6
    patients = np.repeat([f"p{n}" for n in range(18)], sizes)
    labels = np.repeat(list("ab") * 9, sizes)
    for seed in range(10):
        held_out = hold_out(patients, labels, 0.2, seed)
        assert len(held_out) / len(patients) == pytest.approx(0.2, abs=0.05)
        assert len(set(patients[held_out])) / 18 == pytest.approx(0.2, abs=0.05)


def test_the_order_of_the_rows_changes_nothing():
    generator = np.random.default_rng(0)
    patients, labels = _cohort(generator, generator.integers(1, 5, 30), 3, per_scan=True, least=5)
    table = make_splits(patients, labels, Splits(num_folds=4))
    order = generator.permutation(len(patients))
    assert table.equals(make_splits(patients[order], labels[order], Splits(num_folds=4)))
    held_out = set(patients[hold_out(patients, labels, 0.3, seed=4)])
    assert held_out == set(patients[order][hold_out(patients[order], labels[order], 0.3, seed=4)])


def test_every_patient_of_an_even_cohort_is_as_likely_to_validate():
    patients, labels = [f"p{n:02d}" for n in range(20)], ["a"] * 12 + ["b"] * 8
    times = np.zeros(20)
    for seed in range(120):
        times[hold_out(patients, labels, 0.25, seed)] += 1
    assert chisquare(times).pvalue > 1e-4
    assert times.sum() == 120 * 5


def test_a_cohort_in_which_each_patient_is_the_only_one_of_a_class_is_refused():
    with pytest.raises(ValueError, match="Too few patients for training and validation: each of 3"):
        hold_out(["p0", "p1", "p2"], ["a", "b", "c"], 0.3, seed=0)
    with pytest.raises(ValueError, match=r"val_fraction is 1\.0"):
        hold_out(["p0", "p1"], ["", ""], 1.0, seed=0)
