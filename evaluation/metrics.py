"""Measures of a classification, from the predictions table alone.

A case is a patient, or a scan where a patient's scans may have different labels; see `as_cases`.

With two classes the headline figures are those of the positive class, the last one; with more
they are the mean over the classes, each against the rest.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, confusion_matrix, matthews_corrcoef

from evaluation.predictions import as_cases, class_names_of, per_scan, probs_of, scans_are_cases

SHARED = ("accuracy", "balanced_accuracy", "mcc")
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc", "brier")
NAMES = SHARED[:2] + PER_CLASS[:5] + ("auroc", "auprc", "mcc", "brier")


def classification_metrics(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure one repeat.

    Args:
        predictions: Rows of one repeat; every scan once, or every case.

    Returns:
        The headline figures by name, `confusion` with true classes as rows, and `per_class` where
        there are more than two classes. A figure that is not defined is NaN.
    """
    predictions = as_cases(predictions)
    names = class_names_of(predictions)
    probs = probs_of(predictions)
    true = np.array([names.index(label) for label in predictions["label"]])
    predicted = np.array([names.index(label) for label in predictions["predicted"]])
    per_class = {
        name: _one_against_rest(true == k, predicted == k, probs[:, k])
        for k, name in enumerate(names)
    }
    headline = per_class[names[-1]]
    if len(names) > 2:
        headline = {
            measure: float(np.mean([figures[measure] for figures in per_class.values()]))
            for measure in PER_CLASS
        }
    figures: dict[str, Any] = {
        "accuracy": float((true == predicted).mean()),
        "balanced_accuracy": float(np.mean([per_class[name]["sensitivity"] for name in names])),
        "mcc": float(matthews_corrcoef(true, predicted)),
        **headline,
    }
    figures = {name: figures[name] for name in NAMES}
    figures["confusion"] = confusion_matrix(true, predicted, labels=range(len(names))).tolist()
    if len(names) > 2:
        figures["per_class"] = per_class
    return figures


def summarise(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure every repeat, and their mean and spread.

    Args:
        predictions: A whole predictions table.

    Returns:
        `classes`, `positive_class`, `case` ('patient' or 'scan'), `num_cases`, `num_patients`,
        `num_scans`, `repeats` (a list of `classification_metrics`), `mean`, `sd`, `min`, `max`
        over the repeats, `per_scan` (the same four, scan by scan, where a case has several;
        else None), and `auroc_within_folds`.
    """
    names = class_names_of(predictions)
    repeats = [classification_metrics(rows) for _, rows in predictions.groupby("repeat")]
    num_scans = len(predictions[["patient_id", "image"]].drop_duplicates())
    num_patients = int(predictions["patient_id"].nunique())
    num_cases = num_scans if scans_are_cases(predictions) else num_patients
    scans = per_scan(predictions).groupby("repeat")
    return {
        "classes": names,
        "positive_class": names[-1] if len(names) == 2 else None,
        "case": "scan" if scans_are_cases(predictions) else "patient",
        "num_cases": num_cases,
        "num_patients": num_patients,
        "num_scans": num_scans,
        "num_repeats": len(repeats),
        **_over_repeats(repeats),
        "per_scan": _over_repeats([classification_metrics(rows) for _, rows in scans])
        if num_cases < num_scans
        else None,
        "auroc_within_folds": auroc_within_folds(predictions),
        "repeats": repeats,
    }


def auroc_within_folds(predictions: pd.DataFrame) -> dict[str, Any]:
    """Compute the AUROC of each fold by itself, which offsets between folds cannot lower.

    Args:
        predictions: A predictions table.

    Returns:
        num_folds, how many folds of all repeats have cases of every class, and mean and sd of
        their AUROCs; None where there are too few.
    """
    names = class_names_of(predictions)
    areas = []
    for _, rows in as_cases(predictions).groupby(["repeat", "fold"]):
        probs, label = probs_of(rows), rows["label"].to_numpy()
        if set(label) == set(names):
            headline = range(1, 2) if len(names) == 2 else range(len(names))
            areas.append(np.mean([_auroc(label == names[k], probs[:, k]) for k in headline]))
    return {
        "num_folds": len(areas),
        "mean": float(np.mean(areas)) if areas else None,
        "sd": float(np.std(areas, ddof=1)) if len(areas) > 1 else None,
    }


def running_mean(predictions: pd.DataFrame) -> dict[str, float]:
    """Measure a cross-validation of which only some folds are predicted.

    Args:
        predictions: Rows of the folds so far; a repeat may be incomplete.

    Returns:
        Mean over the repeats, each weighted by the cases it has so far; once all folds are there
        it is the mean of `summarise`. A figure that is not defined yet is left out.
    """
    repeats = [rows for _, rows in as_cases(predictions).groupby("repeat")]
    figures = pd.DataFrame([classification_metrics(rows) for rows in repeats])[list(NAMES)]
    weights = np.array([len(rows) for rows in repeats], dtype=float)
    means = {}
    for name, values in figures.astype(float).items():
        known = values.notna().to_numpy()
        if known.any():
            means[str(name)] = float(np.average(values[known], weights=weights[known]))
    return means


def _over_repeats(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    figures = pd.DataFrame(repeats)[list(NAMES)].astype(float)
    return {
        "mean": figures.mean().to_dict(),
        "sd": figures.std(ddof=1).to_dict() if len(repeats) > 1 else dict.fromkeys(NAMES),
        "min": figures.min().to_dict(),
        "max": figures.max().to_dict(),
    }


def _one_against_rest(true: np.ndarray, predicted: np.ndarray, prob: np.ndarray) -> dict:
    hits, misses = int((true & predicted).sum()), int((true & ~predicted).sum())
    alarms, passes = int((~true & predicted).sum()), int((~true & ~predicted).sum())
    return {
        "sensitivity": _ratio(hits, hits + misses),
        "specificity": _ratio(passes, passes + alarms),
        "ppv": _ratio(hits, hits + alarms),
        "npv": _ratio(passes, passes + misses),
        "f1": _ratio(2 * hits, 2 * hits + alarms + misses),
        "auroc": _auroc(true, prob),
        "auprc": float(average_precision_score(true, prob)) if true.any() else float("nan"),
        "brier": float(np.mean((prob - true) ** 2)),
    }


def _auroc(true: np.ndarray, prob: np.ndarray) -> float:
    if true.all() or not true.any():
        return float("nan")
    num_true = int(true.sum())
    wins = rankdata(prob)[true].sum() - num_true * (num_true + 1) / 2  # Mann–Whitney U
    return float(wins / (num_true * (len(true) - num_true)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
