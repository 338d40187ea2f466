"""Closed intervals, what a number of patients can show, and conformal sets."""

import numpy as np
import pandas as pd
import pytest
from predictions import as_predictions, draw_predictions
from scipy.special import expit, logit
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t

from evaluation.conformal import conformal_summary, prediction_sets
from evaluation.intervals import (
    bootstrap_intervals,
    closed_intervals,
    delong_interval,
    dummy_auroc,
    proportion_intervals,
    what_can_be_shown,
)
from evaluation.uncertainty import bootstrap, estimates

Z = norm.ppf(0.975)


@pytest.mark.parametrize(("hits", "cases"), [(0, 12), (7, 30), (46, 46), (55, 80)])
def test_intervals_of_a_share_equal_scipys(hits, cases):
    found = proportion_intervals(hits / cases, cases)
    for method, name in (("wilson", "wilson"), ("exact", "clopper_pearson")):
        theirs = binomtest(hits, cases).proportion_ci(method=method)
        assert found[name] == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_delong_interval_is_that_of_its_definition():
    table = draw_predictions(num_scans=41, per_patient=1)
    positive = (table["label"] == "unhealthy").to_numpy()
    score = table["prob_unhealthy"].to_numpy()
    wins = (score[positive][:, None] > score[~positive][None, :]).astype(float)
    variance = (
        wins.mean(axis=1).var(ddof=1) / len(wins) + wins.mean(axis=0).var(ddof=1) / (wins.shape[1])
    )
    area = wins.mean()
    reach = student_t.ppf(0.975, 39) * np.sqrt(variance) / (area * (1 - area))
    expected = (expit(logit(area) - reach), expit(logit(area) + reach))
    assert delong_interval(table) == pytest.approx(expected)


def test_a_perfect_separation_has_no_delong_interval():
    true = np.arange(20) % 2
    table = as_predictions(np.eye(2)[true] * 5.0, true)
    assert np.isnan(delong_interval(table)).all()


def test_scans_of_one_patient_are_one_case_for_a_share():
    one, four = (draw_predictions(num_scans=80, per_patient=k) for k in (1, 4))
    widths = [np.diff(closed_intervals(table)["accuracy"]["wilson"])[0] for table in (one, four)]
    assert widths[1] > 1.7 * widths[0]


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
    sets = prediction_sets(table, validation, error=0.5)  # two of three votes: distance 0.6
    assert list(sets["set"]) == ["healthy", "healthy|unhealthy"]
    assert list(sets["covered"]) == [True, True]
    unsure = prediction_sets(table, validation, error=0.1)  # more than two patients can promise
    assert list(unsure["size"]) == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("per_patient", "num_classes"), [(1, 2), (3, 2), (1, 3)])
def test_conformal_sets_cover_as_often_as_they_promise(per_patient, num_classes):
    num_val, error = 30, 0.2
    num_patients = num_val // per_patient
    covered = [
        conformal_summary(*draw_fold(num_val, 30, seed, per_patient, num_classes), error)[
            "coverage"
        ]
        for seed in range(400)
    ]
    noise = 3 * np.std(covered) / np.sqrt(len(covered))
    promised = 1 - error
    assert promised - noise <= np.mean(covered) <= promised + 1 / (num_patients + 1) + noise


@pytest.mark.slow
@pytest.mark.parametrize("per_patient", [1, 3])
def test_every_interval_covers_the_truth_as_often_as_it_says(per_patient):
    num_trials, num_scans = 400, 120
    true_figures = [estimates(draw_fold(0, 3000, 10**6 + n, per_patient)[0]) for n in range(20)]
    truth = pd.DataFrame(true_figures).mean()
    inside: dict[str, list[bool]] = {}
    for seed in range(num_trials):
        table = draw_fold(0, num_scans, seed, per_patient)[0]
        found = {
            ("bootstrap", name): interval
            for name, interval in bootstrap_intervals(table, bootstrap(table, 400, seed)).items()
        }
        found |= {
            (method, name): interval
            for name, methods in closed_intervals(table).items()
            for method, interval in methods.items()
        }
        for (method, name), (low, high) in found.items():
            inside.setdefault(f"{method} {name}", []).append(low <= truth[name] <= high)
    coverage = {name: float(np.mean(hits)) for name, hits in inside.items()}
    noise = 3 * np.sqrt(0.95 * 0.05 / num_trials)
    for name, share in coverage.items():
        assert share >= 0.95 - noise, (name, share)
        if name in ("bootstrap auroc", "delong auroc"):  # those of shares may be on the safe side
            assert share <= 0.95 + noise, (name, share)
