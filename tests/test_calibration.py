import numpy as np
import pandas as pd
import pytest
import torch
from predictions import as_predictions, draw_predictions
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from evaluation.calibration import (
    apply_temperature,
    calibrate,
    calibration_error,
    calibration_summary,
    fit_temperature,
    reliability,
)
from evaluation.predictions import PROB, with_decision


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
def test_the_temperature_undoes_too_much_or_too_little_confidence(temperature):
    table = draw_calibrated(temperature=temperature)
    assert fit_temperature(table) == pytest.approx(1 / temperature, rel=0.08)


def test_a_temperature_keeps_the_order_and_the_decisions():
    table = draw_predictions(num_classes=3)
    scaled = apply_temperature(table, 3.0)
    assert (scaled["predicted"] == table["predicted"]).all()
    assert (scaled["prob_other"].rank() == table["prob_other"].rank()).all()
    assert scaled["confidence"].mean() < table["confidence"].mean()


def test_a_temperature_of_one_changes_nothing():
    table = draw_predictions()
    pd.testing.assert_frame_equal(apply_temperature(table, 1.0), table, rtol=1e-6)


def test_a_dozen_scans_that_are_all_right_do_not_ask_for_certainty():
    true = np.arange(12) % 2
    table = as_predictions(np.where(np.eye(2)[true] > 0, 2.0, -2.0), true)
    assert 0.2 < fit_temperature(table) < 1


def test_each_fold_is_scaled_by_its_own_validation_part():
    table = draw_predictions(num_scans=50)
    validation = draw_calibrated(num_scans=500, temperature=0.5)
    scaled = calibrate(table, validation)
    for fold, rows in table.groupby("fold"):
        alone = apply_temperature(rows, fit_temperature(validation[validation["fold"] == fold]))
        pd.testing.assert_frame_equal(scaled.loc[rows.index], alone)


def test_a_fold_without_validation_rows_is_named():
    table = draw_predictions(num_scans=50)
    with pytest.raises(ValueError, match="Repeat 0, fold 4 has no validation"):
        calibrate(table, table[table["fold"] != 4])


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
