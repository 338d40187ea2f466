from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from predictions import as_run, draw_predictions
from sklearn import metrics as sk

from evaluation.confidence import accuracy_by_coverage
from evaluation.metrics import NAMES, classification_metrics, summarise
from evaluation.predictions import (
    prediction_table,
    ranking_table,
    read_predictions,
    with_decision,
    write_table,
)
from evaluation.report.markdown import write_report
from evaluation.summary import optimism, summarise_run
from evaluation.uncertainty import MEASURES, estimates


def test_binary_measures_equal_scikit_learns():
    table = draw_predictions()
    figures = classification_metrics(table)
    true, predicted = table["label"] == "unhealthy", table["predicted"] == "unhealthy"
    prob = table["prob_unhealthy"]
    expected = {
        "accuracy": sk.accuracy_score(true, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
        "sensitivity": sk.recall_score(true, predicted),
        "specificity": sk.recall_score(~true, ~predicted),
        "ppv": sk.precision_score(true, predicted),
        "npv": sk.precision_score(~true, ~predicted),
        "f1": sk.f1_score(true, predicted),
        "auroc": sk.roc_auc_score(true, prob),
        "auprc": sk.average_precision_score(true, prob),
        "mcc": sk.matthews_corrcoef(true, predicted),
        "brier": sk.brier_score_loss(true, prob),
    }
    assert {name: figures[name] for name in NAMES} == pytest.approx(expected)
    assert figures["confusion"] == sk.confusion_matrix(true, predicted).tolist()


def test_multiclass_measures_are_macro_averages():
    table = draw_predictions(num_classes=3)
    figures = classification_metrics(table)
    names = ["healthy", "unhealthy", "other"]
    one_hot = np.stack([table["label"] == name for name in names], axis=1)
    probs = table[[f"prob_{name}" for name in names]].to_numpy()
    assert figures["auroc"] == pytest.approx(sk.roc_auc_score(one_hot, probs, average="macro"))
    assert figures["f1"] == pytest.approx(
        sk.f1_score(table["label"], table["predicted"], average="macro")
    )
    assert figures["balanced_accuracy"] == figures["sensitivity"]
    assert set(figures["per_class"]) == set(names)
    assert estimates(table) == pytest.approx({name: figures[name] for name in MEASURES})


def test_accuracy_lies_between_sensitivity_and_specificity():
    for seed in range(20):
        figures = classification_metrics(draw_predictions(num_scans=25, seed=seed))
        low, high = sorted([figures["sensitivity"], figures["specificity"]])
        assert low <= figures["accuracy"] <= high


def test_a_figure_without_cases_is_not_a_number():
    table = with_decision(draw_predictions().assign(prob_healthy=1.0, prob_unhealthy=0.0))
    figures = classification_metrics(table)
    assert np.isnan(figures["ppv"])
    assert figures["npv"] == 0.5


def test_repeats_are_measured_one_by_one():
    table = draw_predictions(num_repeats=3)
    summary = summarise(table)
    each = [classification_metrics(rows)["auroc"] for _, rows in table.groupby("repeat")]
    assert summary["mean"]["auroc"] == pytest.approx(np.mean(each))
    assert summary["sd"]["auroc"] == pytest.approx(np.std(each, ddof=1))
    assert (summary["min"]["auroc"], summary["max"]["auroc"]) == (min(each), max(each))
    assert (summary["num_patients"], summary["num_scans"]) == (30, 60)
    assert estimates(table) == pytest.approx({name: summary["mean"][name] for name in MEASURES})


class _Scan:
    def __init__(self, number):
        self.patient_id, self.image, self.label = f"00{number}", f"{number}.nii", "NA"


def test_the_highest_output_is_the_class_and_its_lead_the_confidence(tmp_path):
    table = prediction_table(
        [_Scan(1), _Scan(2)], [[0.25, 0.75], [0.5, 0.25]], ["NA", "b"], repeat=1, fold=2
    )
    assert table["predicted"].tolist() == ["b", "NA"]
    assert table["confidence"].tolist() == pytest.approx([0.5, 1 / 3])
    write_table(table, tmp_path / "predictions.csv")
    again = read_predictions(tmp_path / "predictions.csv")
    assert again["patient_id"].tolist() == ["001", "002"]
    assert again["label"].tolist() == ["NA", "NA"]
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_the_ranking_goes_from_doubtful_to_sure_with_each_scan_once():
    table = draw_predictions(20, num_repeats=3)
    ranking = ranking_table(table)
    assert len(ranking) == 20
    assert ranking["confidence"].is_monotonic_increasing
    assert ranking["rank"].tolist() == list(range(1, 21))
    for _, row in ranking.iterrows():
        repeats = table[table["image"] == row["image"]]
        mean = repeats[["prob_healthy", "prob_unhealthy"]].mean()
        assert row["confidence"] == pytest.approx(abs(mean.diff().iloc[1]))
        assert row["flips"] == (repeats["predicted"] != row["predicted"]).mean()


def test_accuracy_by_coverage_ends_at_the_accuracy():
    table = draw_predictions(50, num_repeats=2, signal=2.0)
    curve = accuracy_by_coverage(table)
    for repeat, rows in curve.groupby("repeat"):
        whole = classification_metrics(table[table["repeat"] == repeat])["accuracy"]
        assert rows["accuracy"].iloc[-1] == pytest.approx(whole)
        assert rows["coverage"].iloc[-1] == 1
        surest = table[table["repeat"] == repeat].nlargest(10, "confidence")
        correct = (surest["label"] == surest["predicted"]).mean()
        assert rows["accuracy"].iloc[9] == pytest.approx(correct)


CURVES = pd.DataFrame({"fold_run": ["a"], "epoch": [0], "val/accuracy": [0.5]})


def _report(signal, watched=False, num_fold_runs=5, num_untested_patients=0):
    table = draw_predictions(signal=signal)
    metrics = summarise_run(as_run(table, curves=CURVES if watched else None))
    metrics["num_untested_patients"] = num_untested_patients
    run = {"name": "x", "init": None, "preprocessing": "Resized.", "command": "c"}
    run |= {
        "num_fold_runs": num_fold_runs,
        "commit": None,
        "seed": 0,
        "data_hash": "h",
        "wall_time_s": 1.0,
        "device": "CPU",
    }
    return write_report(metrics, ranking_table(table), run, as_run(table).cohort, has_curves=True)


@pytest.mark.slow
def test_the_report_says_in_words_what_was_found():
    assert "better than chance" in _report(signal=2.0)
    assert "cannot tell the model from chance" in _report(signal=0.0)
    assert "worse than chance" in _report(signal=-2.0)


@pytest.mark.slow
def test_the_paper_protocol_is_called_optimistic():
    assert "Optimistic" in _report(signal=1.0, watched=True)
    assert "Optimistic" not in _report(signal=1.0)


def test_a_single_split_is_not_called_a_cross_validation_of_everyone():
    whole, part = _report(signal=1.0), _report(signal=1.0, num_fold_runs=1, num_untested_patients=7)
    assert "# Cross-validation x" in whole
    assert "1 repeat of 5 folds; every scan is predicted" in whole
    assert "# Held-out test x" in part
    assert "1 repeat of 1 fold; each of them is predicted" in part
    assert "7 other patients into no test part" in part
    assert "every scan is predicted" not in part


def test_the_optimism_is_what_choosing_the_epoch_gained():
    curves = pd.DataFrame(
        {
            "fold_run": ["a"] * 3 + ["b"] * 3,
            "epoch": [0, 1, 2] * 2,
            "val/accuracy": [0.5, 0.9, 0.7, 0.6, 0.6, 0.8],
        }
    )
    assert optimism(curves) == pytest.approx((0.2 + 0.0) / 2)
    assert optimism(None) is None


@pytest.mark.slow
def test_test_patients_who_judged_the_epochs_make_a_run_optimistic():
    table = draw_predictions()
    watched = summarise_run(as_run(table, curves=CURVES))
    assert (watched["protocol"], watched["optimism"]) == ("paper", 0)
    nested = summarise_run(as_run(table, draw_predictions(seed=2), CURVES))
    assert (nested["protocol"], nested["optimism"]) == ("nested", None)
    unwatched = CURVES.rename(columns={"val/accuracy": "train/loss"})
    assert summarise_run(as_run(table, curves=unwatched))["protocol"] == "nested"
    run = as_run(table, draw_predictions(seed=2), CURVES)
    in_fold_1 = (run.splits["fold"] == 1) & (run.splits["part"] == "val")
    assert replace(run, splits=run.splits[~in_fold_1]).protocol == "paper"


@pytest.mark.slow
def test_calibration_is_measured_on_validation_patients_on_other_folds_or_not_at_all():
    table, validation = draw_predictions(seed=1), draw_predictions(seed=2)
    runs = {
        "validation": as_run(table, validation),
        "other folds": as_run(table),
        None: as_run(table[table["fold"] == 0]),
    }
    for on, run in runs.items():
        metrics = summarise_run(run)
        assert metrics["calibration"]["on"] == on
        assert (metrics["calibration"]["calibrated"] is None) == (on is None)
        assert (metrics["conformal"] is None) == (on is None)
    brier = [summarise_run(runs[on])["calibration"] for on in ("validation", "other folds")]
    assert brier[0]["as_trained"] == brier[1]["as_trained"]
    assert brier[0]["calibrated"] != brier[1]["calibrated"]
