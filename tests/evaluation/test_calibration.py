import numpy as np
import pandas as pd
import pytest
import torch
from predictions import as_predictions, draw_predictions
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from evaluation.calibration import (
    Calibration,
    apply_calibration,
    calibrate,
    calibration_error,
    calibration_summary,
    fit_calibration,
    held_out,
    reliability,
)
from evaluation.metrics import auroc_within_folds
from evaluation.predictions import PROB, with_decision
from evaluation.uncertainty import estimates


def draw_calibrated(num_scans=4000, seed=0, temperature=1.0, num_repeats=1):
    """Outputs that are exactly right, made too confident by a temperature below 1."""
    generator = np.random.default_rng(seed)
    tables = []
    for repeat in range(num_repeats):
        logit = generator.normal(scale=1.5, size=num_scans)
        positive = generator.random(num_scans) < 1 / (1 + np.exp(-logit))
        table = pd.DataFrame(
            {
                "patient_id": [f"p{n}" for n in range(num_scans)],
                "image": [f"{n}.nii" for n in range(num_scans)],
                "repeat": repeat,
                "fold": np.arange(num_scans) % 5,
                "label": np.where(positive, "unhealthy", "healthy"),
                PROB + "healthy": 1 / (1 + np.exp(logit / temperature)),
                PROB + "unhealthy": 1 / (1 + np.exp(-logit / temperature)),
            }
        )
        tables.append(with_decision(table))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_slope_undoes_too_much_or_too_little_confidence(temperature):
    table = draw_calibrated(temperature=temperature)
    assert fit_calibration(table).slope == pytest.approx(temperature, rel=0.08)


def _lean(table, offset):
    """Add `offset` to the logit of the positive class, as a fold that prefers it does."""
    odds = table["prob_unhealthy"] / table["prob_healthy"] * np.exp(offset)
    shares = {"prob_healthy": 1 / (1 + odds), "prob_unhealthy": odds / (1 + odds)}
    return with_decision(table.assign(**shares))


@pytest.mark.parametrize("offset", [-1.5, 0.0, 2.0])
def test_two_classes_are_calibrated_by_platt_s_logistic_regression(offset):
    table = _lean(draw_calibrated(temperature=0.6), offset)
    logit = np.log(table["prob_unhealthy"] / table["prob_healthy"]).to_numpy()[:, None]
    theirs = LogisticRegression(C=np.inf).fit(logit, table["label"] == "unhealthy")
    found = fit_calibration(table)
    assert found.slope == pytest.approx(theirs.coef_.item(), abs=0.01)
    assert np.diff(found.intercepts).item() == pytest.approx(theirs.intercept_.item(), abs=0.01)
    prob = apply_calibration(table, found)["prob_unhealthy"]
    np.testing.assert_allclose(prob, theirs.predict_proba(logit)[:, 1], atol=0.005)


def test_three_classes_get_an_intercept_each():
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=1.5, size=(6000, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (generator.random((6000, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    leaning = np.exp(2 * logits + [1.0, 0.0, -1.0])
    table = as_predictions(np.zeros((6000, 3)), true)
    names = ["prob_healthy", "prob_unhealthy", "prob_other"]
    table[names] = leaning / leaning.sum(axis=1, keepdims=True)
    found = fit_calibration(table)
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert np.array(found.intercepts) == pytest.approx([-0.5, 0.0, 0.5], abs=0.1)
    np.testing.assert_allclose(apply_calibration(table, found)[names], shares, atol=0.05)


def test_a_slope_alone_keeps_the_order_and_the_decisions():
    table = draw_predictions()
    scaled = apply_calibration(table, Calibration(0.3, (0.0, 0.0)))
    assert (scaled["predicted"] == table["predicted"]).all()
    assert (scaled["prob_unhealthy"].rank() == table["prob_unhealthy"].rank()).all()
    assert scaled["confidence"].mean() < table["confidence"].mean()


def test_a_calibration_that_asks_for_nothing_changes_nothing():
    table = draw_predictions(num_classes=3)
    same = apply_calibration(table, Calibration(1.0, (0.0, 0.0, 0.0)))
    pd.testing.assert_frame_equal(same, table, rtol=1e-6)


@pytest.mark.parametrize("true", [np.arange(12) % 2, np.zeros(12, dtype=int)])
def test_a_dozen_scans_that_are_all_right_do_not_ask_for_certainty(true):
    table = as_predictions(np.where(np.eye(2)[true] > 0, 2.0, -2.0), true)
    found = fit_calibration(table)
    assert 1 < found.slope < 5
    assert np.abs(found.intercepts).max() < 1


@pytest.mark.slow
def test_offsets_between_folds_lower_the_pooled_auroc_until_folds_are_calibrated():
    before, after, within = [], [], []
    for seed in range(8):
        whole = draw_calibrated(num_scans=500, seed=seed)
        leaning = pd.concat([_lean(rows, 1.5 * fold - 3) for fold, rows in whole.groupby("fold")])
        leaning = leaning.sort_index()
        half = leaning.index % 2 == 0
        table, validation = leaning[half], leaning[~half]  # 50 a fold
        before.append(estimates(table)["auroc"])
        after.append(estimates(calibrate(table, held_out(table, validation)))["auroc"])
        within.append(auroc_within_folds(table)["mean"])
    assert np.mean(before) < np.mean(within) - 0.05
    assert np.mean(after) == pytest.approx(np.mean(within), abs=0.02)


def test_each_fold_is_calibrated_on_its_own_validation_part():
    table = draw_predictions(num_scans=50)
    validation = draw_calibrated(num_scans=500, temperature=0.5)
    scaled = calibrate(table, held_out(table, validation))
    for fold, rows in table.groupby("fold"):
        alone = apply_calibration(rows, fit_calibration(validation[validation["fold"] == fold]))
        pd.testing.assert_frame_equal(scaled.loc[rows.index], alone)


def test_without_validation_a_fold_is_calibrated_on_the_other_folds_of_its_repeat():
    table = draw_predictions(num_scans=50, num_repeats=2, per_patient=1)
    scaled = calibrate(table, held_out(table, None))
    for (repeat, fold), rows in table.groupby(["repeat", "fold"]):
        others = table[(table["repeat"] == repeat) & (table["fold"] != fold)]
        alone = apply_calibration(rows, fit_calibration(others))
        pd.testing.assert_frame_equal(scaled.loc[rows.index], alone)


def test_the_labels_of_a_fold_do_not_move_its_own_calibration():
    table = draw_predictions(num_scans=50, per_patient=1)
    swapped = table.assign(
        label=table["label"].where(table["fold"] != 2, table["label"].iloc[::-1].to_numpy())
    )
    assert (swapped["label"] != table["label"]).any()
    one, two = (calibrate(each, held_out(each, None)) for each in (table, swapped))
    own = table["fold"] == 2
    np.testing.assert_array_equal(one.loc[own, "prob_unhealthy"], two.loc[own, "prob_unhealthy"])
    assert (one.loc[~own, "prob_unhealthy"] != two.loc[~own, "prob_unhealthy"]).all()


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_other_folds_undo_too_much_or_too_little_confidence(temperature):
    table = draw_calibrated(num_scans=1000, temperature=temperature)
    before, after = (
        calibration_summary(table),
        calibration_summary(calibrate(table, held_out(table, None))),
    )
    assert after["brier"] < before["brier"]
    assert after["ece"] < before["ece"] / 2


def test_a_fold_without_others_to_calibrate_on_is_named():
    table = draw_predictions(num_scans=50)
    held = held_out(table, table[table["fold"] != 4])
    with pytest.raises(ValueError, match="Repeat 0, fold 4 has no cases to calibrate on"):
        calibrate(table, held)
    assert held_out(table[table["fold"] == 4], None) == {}


def test_reliability_equals_scikit_learns_quantile_bins():
    table = draw_calibrated(num_scans=503)
    positive = table["label"] == "unhealthy"
    observed, prob = calibration_curve(
        positive, table["prob_unhealthy"], n_bins=5, strategy="quantile"
    )
    bins = reliability(table)
    np.testing.assert_allclose(bins["observed"], observed, atol=0.01)
    np.testing.assert_allclose(bins["prob"], prob, atol=0.01)
    assert ((bins["low"] < bins["prob"]) & (bins["prob"] < bins["high"])).all()


def test_the_calibration_error_of_one_bin_is_torchmetrics():
    table = draw_predictions(num_scans=80)
    positive = torch.tensor(table["label"] == "unhealthy").long()
    prob = torch.tensor(table["prob_unhealthy"].to_numpy())
    theirs = binary_calibration_error(prob, positive, n_bins=1, norm="l1")
    assert calibration_error(table, num_bins=1) == pytest.approx(float(theirs))


def test_the_range_of_a_perfect_model_holds_a_perfect_model_and_no_overconfident_one():
    inside = 0
    for seed in range(40):
        figures = calibration_summary(draw_calibrated(num_scans=60, seed=seed))
        low, high = figures["ece_if_perfect"]
        inside += low <= figures["ece"] <= high
    assert inside >= 34  # 95 % of 40 is 38; fewer than 34 has a chance below 1 %
    figures = calibration_summary(draw_calibrated(num_scans=300, temperature=0.25))
    assert figures["ece"] > figures["ece_if_perfect"][1]


def draw_perfect(generator, num_repeats, per_patient, per_label, wobble=0.0):
    """Draw 60 scans whose outputs are the chances of their labels, in each repeat up to a wobble.

    Args:
        generator: Randomness.
        num_repeats: Repeats; they share the labels.
        per_patient: Scans per patient.
        per_label: "patient" if a patient's scans share their label.
        wobble: Standard deviation of a repeat's logits about their mean.
    """
    num_patients = 60 // per_patient
    logit = generator.normal(scale=1.5, size=(num_patients, per_patient))
    luck = generator.random(logit.shape)
    if per_label == "patient":
        logit, luck = logit[:, :1].repeat(per_patient, 1), luck[:, :1].repeat(per_patient, 1)
    true = (luck < expit(logit)).astype(int).ravel()
    outputs = logit.ravel() + wobble * generator.normal(size=(num_repeats, 60))
    one = as_predictions(np.zeros((60, 2)), true, per_patient=per_patient)
    table = pd.concat([one] * num_repeats, ignore_index=True)
    probs = {PROB + "healthy": expit(-outputs.ravel()), PROB + "unhealthy": expit(outputs.ravel())}
    return table.assign(repeat=np.arange(num_repeats).repeat(60), **probs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_repeats", "per_patient", "per_label"),
    [
        (1, 1, "patient"),
        (1, 2, "patient"),
        (5, 2, "patient"),
        (15, 1, "patient"),
        (15, 2, "patient"),
        (15, 2, "scan"),
    ],
)
def test_a_perfect_model_is_inside_its_range_in_95_of_100_cohorts(
    num_repeats, per_patient, per_label, monkeypatch
):
    monkeypatch.setattr("evaluation.calibration.NUM_NULL_DRAWS", 400)
    generator, inside, num_cohorts = np.random.default_rng(num_repeats), 0, 400
    for _ in range(num_cohorts):
        table = draw_perfect(generator, num_repeats, per_patient, per_label, 0.2)
        figures = calibration_summary(table)
        low, high = figures["ece_if_perfect"]
        inside += low <= figures["ece"] <= high
    assert inside / num_cohorts == pytest.approx(0.95, abs=0.03)


def test_repeats_that_agree_leave_the_range_of_a_perfect_model_as_it_is():
    once = draw_perfect(np.random.default_rng(0), 1, 1, "patient")
    often = pd.concat([once.assign(repeat=n) for n in range(15)])
    expected = calibration_summary(once)["ece_if_perfect"]
    assert calibration_summary(often)["ece_if_perfect"] == pytest.approx(expected)


def test_scans_that_share_a_label_widen_the_range_of_a_perfect_model():
    shared = draw_perfect(np.random.default_rng(0), 1, 4, "patient")
    own = shared.assign(patient_id=[f"p{n}" for n in range(60)])
    assert (
        np.diff(calibration_summary(shared)["ece_if_perfect"])[0]
        > 1.5 * (np.diff(calibration_summary(own)["ece_if_perfect"])[0])
    )


def test_a_perfect_model_of_three_classes_is_right_once_per_scan():
    generator, inside = np.random.default_rng(0), 0
    for _ in range(40):
        shares = generator.dirichlet([1, 1, 1], size=60)
        true = np.array([generator.choice(3, p=row) for row in shares])
        figures = calibration_summary(as_predictions(np.log(shares / (1 - shares)), true))
        low, high = figures["ece_if_perfect"]
        inside += low <= figures["ece"] <= high
    assert inside >= 34
