"""Intervals, what a number of patients can show, and conformal sets."""

import numpy as np
import pandas as pd
import pytest
from predictions import as_predictions, draw_predictions
from scipy.special import logit
from scipy.stats import binomtest, norm
from simulations import covered, draw_classes, draw_trials

from evaluation.calibration import held_out
from evaluation.conformal import conformal_summary, prediction_sets
from evaluation.intervals import (
    dummy_auroc,
    headline_intervals,
    proportion_intervals,
    share_interval,
    what_can_be_shown,
)
from evaluation.limits import difference_limits, effective_numbers, limits_of
from evaluation.uncertainty import MEASURES, Part, auroc_influence, parts_of, repeats_of, value_of

Z = norm.ppf(0.975)


@pytest.mark.parametrize(("hits", "cases"), [(0, 12), (7, 30), (46, 46), (55, 80)])
def test_intervals_of_a_share_equal_scipys(hits, cases):
    found = proportion_intervals(hits / cases, cases)
    for method, name in (("wilson", "wilson"), ("exact", "clopper_pearson")):
        theirs = binomtest(hits, cases).proportion_ci(method=method)
        assert found[name] == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_patients_with_one_scan_and_one_repeat_are_counted_as_they_are():
    parts = parts_of(repeats_of(draw_predictions(num_scans=41, per_patient=1)))
    recall = parts["balanced_accuracy"]
    assert effective_numbers(recall, recall)[0] == pytest.approx([21, 20])
    assert effective_numbers(parts["accuracy"], parts["accuracy"])[0] == pytest.approx([41])


def test_the_interval_of_a_share_of_many_patients_is_scipys_wilson_interval():
    hits = np.arange(2000) % 10 < 7
    theirs = binomtest(1400, 2000).proportion_ci(method="wilson")
    assert share_interval(hits, np.arange(2000)) == pytest.approx(
        (theirs.low, theirs.high), abs=1e-4
    )


@pytest.mark.parametrize("copies", [2, 5])
def test_repeats_that_agree_are_one_repeat_and_scans_that_agree_one_scan(copies):
    once = draw_predictions(num_scans=40, per_patient=1)
    repeats = pd.concat([once.assign(repeat=n) for n in range(copies)])
    scans = pd.concat([once.assign(image=once["image"] + f"-{n}") for n in range(copies)])
    for name, interval in headline_intervals(once).items():
        assert headline_intervals(repeats)[name] == pytest.approx(interval), name
        assert headline_intervals(scans)[name] == pytest.approx(interval), name


def test_one_patient_with_most_scans_leaves_an_interval_of_few_patients():
    hits = np.array([True] * 90 + [True, False] * 5)
    low, high = share_interval(hits, np.array([0] * 90 + list(range(1, 11))))
    assert high - low > 0.2  # Wilson's interval of 100 cases is 0.09 wide


def test_balanced_accuracy_is_newcombes_combination_of_two_shares():
    # Newcombe (1998), method 10: 56 of 70 against 48 of 80 differ by 0.0524 to 0.3339
    parts = []
    for number, right in ((70, 56), (80, 80 - 48)):
        hits = (np.arange(number) < right)[None].astype(float)
        influence = np.zeros((1, 150))
        inside = slice(0, 70) if number == 70 else slice(70, 150)
        influence[:, inside] = (hits - hits.mean()) / number
        share = np.zeros(150)
        share[inside] = 1 / number
        parts.append(Part(hits.mean(axis=1), influence, share))
    low, high = limits_of({"balanced_accuracy": parts})["balanced_accuracy"]
    found = [2 * float(edge[0]) - 1 for edge in (low, high)]
    assert found == pytest.approx([0.0524, 0.3339], abs=0.005)  # Student's t instead of 1.96


def test_the_auroc_of_many_patients_has_delongs_standard_error():
    table = draw_predictions(num_scans=3000, per_patient=1)
    positive = (table["label"] == "unhealthy").to_numpy()
    score = table["prob_unhealthy"].to_numpy()
    wins = (score[positive][:, None] > score[~positive][None, :]).astype(float)
    variance = wins.mean(axis=1).var(ddof=1) / 1500 + wins.mean(axis=0).var(ddof=1) / 1500
    assert np.square(auroc_influence(table)).sum() == pytest.approx(variance)
    low, high = headline_intervals(table)["auroc"]
    assert (high - low) / 2 / Z == pytest.approx(np.sqrt(variance), rel=0.01)


@pytest.mark.parametrize("sizes", [(3, 60), (5, 45), (25, 25)])
def test_a_perfect_separation_is_uncertain_by_the_class_that_is_rare(sizes):
    true = np.repeat([1, 0], sizes)
    low, high = headline_intervals(as_predictions(np.eye(2)[true] * 5.0, true))["auroc"]
    assert high == pytest.approx(1)
    if sizes[0] < 25:
        # a true AUROC of 0.7 separates five patients in 0.3 % of trials, one of 0.95 in 19 %
        assert 0.5 < low < 0.9
    else:
        assert 0.9 < low < 0.97


def test_a_class_of_one_patient_has_no_interval_of_the_auroc_but_one_of_its_share():
    true = np.repeat([1, 0], [1, 20])
    logits = np.random.default_rng(0).normal(size=(21, 2))
    found = headline_intervals(as_predictions(logits, true))
    assert np.isnan(found["auroc"]).all()
    low, high = found["sensitivity"]
    assert high - low > 0.7


def test_scans_whose_luck_is_shared_count_less_than_scans_of_their_own():
    generator = np.random.default_rng(0)
    patients = np.arange(60).repeat(4)
    alone, together = generator.random(240) < 0.7, (generator.random(60) < 0.7).repeat(4)
    widths = [np.diff(share_interval(hits, patients))[0] for hits in (alone, together)]
    assert widths[1] > 1.6 * widths[0]  # the root of four is 2


def test_fewer_patients_can_show_less():
    many, few = (what_can_be_shown(draw_predictions(num_scans=n, per_patient=1)) for n in (400, 40))
    assert 0.5 < many["smallest_auroc"] < few["smallest_auroc"] < 1
    assert "40 patients (20 with a scan that is" in few["sentence"]


def test_the_smallest_auroc_is_found_four_times_in_five():
    smallest = what_can_be_shown(draw_predictions(num_scans=60, per_patient=1))["smallest_auroc"]
    generator, found = np.random.default_rng(0), []
    for _ in range(300):
        lead = norm.ppf(smallest) * np.sqrt(2)
        positive, negative = generator.normal(lead, size=30), generator.normal(size=30)
        area = (positive[:, None] > negative[None, :]).mean()
        found.append(abs(area - 0.5) / np.sqrt(61 / (12 * 30 * 30)) > Z)
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


def test_a_model_that_knows_nothing_has_auroc_zero_under_leave_one_out():
    table = draw_predictions(num_scans=20, per_patient=1)
    patients = sorted(table["patient_id"])
    table["fold"] = [patients.index(name) for name in table["patient_id"]]
    splits = pd.DataFrame(
        [
            (0, fold, name, "test" if name == patients[fold] else "train")
            for fold in range(20)
            for name in patients
        ],
        columns=["repeat", "fold", "patient_id", "part"],
    )
    cohort = table[["patient_id", "label"]]
    assert dummy_auroc(table, splits, cohort) == 0


def test_a_held_out_test_is_chance_for_a_model_that_knows_nothing():
    table = draw_predictions(num_scans=20, per_patient=1).assign(fold=0)
    others = pd.DataFrame({"patient_id": [f"t{n}" for n in range(9)], "label": "healthy"})
    parts = {"test": table["patient_id"], "train": others["patient_id"]}
    splits = pd.concat(
        [pd.DataFrame({"patient_id": who, "part": part}) for part, who in parts.items()]
    ).assign(repeat=0, fold=0)
    cohort = pd.concat([table[["patient_id", "label"]], others])
    assert dummy_auroc(table, splits, cohort) == 0.5


def draw_fold(num_val, num_test, seed, per_patient=1, num_classes=2):
    """Predictions and validation of one fold; scans of a patient share most of their luck."""
    generator = np.random.default_rng(seed)
    num_scans = num_val + num_test
    true = generator.integers(num_classes, size=num_scans // per_patient).repeat(per_patient)
    luck = generator.normal(size=(num_scans // per_patient, num_classes)).repeat(per_patient, 0)
    logits = 2 * np.eye(num_classes)[true] - 1 + luck + 0.5 * generator.normal(size=luck.shape)
    table = as_predictions(logits, true, per_patient=per_patient).assign(fold=0)
    return table[num_val:].reset_index(drop=True), table[:num_val].reset_index(drop=True)


def test_sets_hold_the_classes_within_the_validation_partss_distance():
    validation = as_predictions(logit(np.array([[0.9, 0.2], [0.6, 0.4]])), [0, 1]).assign(fold=0)
    table = as_predictions(logit(np.array([[0.7, 0.3], [0.6, 0.5]])), [0, 0]).assign(fold=0)
    held = held_out(table, validation)
    sets = prediction_sets(table, held, error=0.5)  # two of three votes: distance 0.6
    assert list(sets["set"]) == ["healthy", "healthy|unhealthy"]
    assert list(sets["covered"]) == [True, True]
    unsure = prediction_sets(table, held, error=0.1)  # more than two patients can promise
    assert list(unsure["size"]) == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("per_patient", "num_classes"), [(1, 2), (3, 2), (1, 3)])
def test_conformal_sets_cover_as_often_as_they_promise(per_patient, num_classes):
    num_val, error = 30, 0.2
    num_patients = num_val // per_patient
    covered = []
    for seed in range(200):
        table, validation = draw_fold(num_val, 30, seed, per_patient, num_classes)
        covered.append(conformal_summary(table, held_out(table, validation), error)["coverage"])
    noise = 3 * np.std(covered) / np.sqrt(len(covered))
    promised = 1 - error
    assert promised - noise <= np.mean(covered) <= promised + 1 / (num_patients + 1) + noise


@pytest.mark.slow
@pytest.mark.parametrize(("per_patient", "num_classes"), [(1, 2), (3, 2), (1, 3)])
def test_conformal_sets_of_the_other_folds_cover_as_often_as_they_promise(per_patient, num_classes):
    num_scans, error, covered = 60, 0.2, []
    for seed in range(200):
        table, _ = draw_fold(0, num_scans, seed, per_patient, num_classes)
        folds = np.arange(num_scans) // per_patient % 5
        table = table.assign(fold=folds)
        covered.append(conformal_summary(table, held_out(table, None), error)["coverage"])
    noise = 3 * np.std(covered) / np.sqrt(len(covered))
    fewest = num_scans // per_patient * 4 / 5
    assert 1 - error - noise <= np.mean(covered) <= 1 - error + 1 / (fewest + 1) + noise


NOISE = 3 * np.sqrt(0.95 * 0.05 / 1500)  # three Monte Carlo standard errors: 1.7 %
DESIGNS = {  # repeats, scans per patient
    "one scan": (1, 1),
    "repeats": (5, 1),
    "scans": (1, 3),
    "both": (2, 2),
}


def assert_covers(limits, truth, most, what):
    share = covered(limits, truth)
    assert 0.95 - NOISE <= share <= most, (what, share)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("sizes", [(5, 45), (6, 94), (3, 60), (25, 25)])
def test_intervals_cover_the_truth_as_often_as_they_promise(sizes, design):
    """95 % with patients enough; up to 99 % (safe side) where a class has six patients or fewer."""
    most = 0.95 + NOISE + 0.003 if min(sizes) > 6 else 0.99
    num_repeats, per_patient = DESIGNS[design]
    for auroc in (0.7, 0.8, 0.9):
        ((repeats, truth),) = draw_trials(
            sizes, [auroc], 1500, num_repeats, per_patient, seed=round(10 * auroc)
        )
        limits = limits_of(parts_of(repeats))
        for name in ("auroc", "balanced_accuracy"):
            assert_covers(limits[name], truth[name], most, (name, auroc))


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("sizes", [(5, 45), (6, 94), (3, 60), (25, 25)])
def test_intervals_of_paired_differences_cover_as_often_as_they_promise(sizes, design):
    """The same, with two models whose scores are correlated."""
    num_repeats, per_patient = DESIGNS[design]
    for aurocs in ((0.8, 0.7), (0.9, 0.8)):
        models = draw_trials(
            sizes, aurocs, 1500, num_repeats, per_patient, seed=round(10 * aurocs[0])
        )
        limits = difference_limits(*(parts_of(repeats) for repeats, _ in models))
        for name in ("auroc", "balanced_accuracy"):
            truth = models[0][1][name] - models[1][1][name]
            most = 0.995 if min(sizes) <= 6 and name == "auroc" else 0.98
            assert_covers(limits[name], truth, most, (name, aurocs))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(25, 25), (15, 30)])
def test_intervals_cover_where_patients_have_scans_of_both_classes(sizes):
    for num_repeats, per_patient in ((1, 2), (2, 3)):
        models = draw_trials(sizes, (0.8, 0.7), 1500, num_repeats, per_patient, mixed=True)
        parts = [parts_of(repeats) for repeats, _ in models]
        limits, differences = limits_of(parts[0]), difference_limits(*parts)
        for name in MEASURES:
            means = [value_of(part[name]).mean() for part in parts]
            for kind, truth in ((limits, means[0]), (differences, means[0] - means[1])):
                share = covered(kind[name], truth)
                assert 0.93 <= share <= 0.97, (name, share)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(20, 20, 20), (5, 20, 45)])
def test_intervals_cover_with_three_classes(sizes):
    for num_repeats in (1, 4):
        parts = parts_of(draw_classes(sizes, 1500, num_repeats))
        for name, limits in limits_of(parts).items():
            share = covered(limits, value_of(parts[name]).mean())
            assert 0.95 - NOISE <= share <= 0.98, (name, share)
