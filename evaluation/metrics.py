"""Measures of a classification, from the predictions table alone; a case is a scan.

With two classes the headline figures are those of the positive class, the last one; with more
they are the mean over the classes, each against the rest.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, confusion_matrix, matthews_corrcoef

from evaluation.predictions import class_names_of, probs_of

SHARED = ("accuracy", "balanced_accuracy", "mcc")
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc", "brier")
NAMES = SHARED[:2] + PER_CLASS[:5] + ("auroc", "auprc", "mcc", "brier")


def classification_metrics(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure one repeat.

    Args:
        predictions: Rows of one repeat; every scan once.

    Returns:
        The headline figures by name, `confusion` with true classes as rows, and `per_class` where
        there are more than two classes. A figure that is not defined is NaN.
    """
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
        `classes`, `positive_class`, `num_patients`, `num_scans`, `repeats` (a list of
        `classification_metrics`), and `mean`, `sd`, `min`, `max` over the repeats.
    """
    names = class_names_of(predictions)
    repeats = [classification_metrics(rows) for _, rows in predictions.groupby("repeat")]
    figures = pd.DataFrame(repeats)[list(NAMES)].astype(float)
    return {
        "classes": names,
        "positive_class": names[-1] if len(names) == 2 else None,
        "num_patients": int(predictions["patient_id"].nunique()),
        "num_scans": len(predictions[["patient_id", "image"]].drop_duplicates()),
        "num_repeats": len(repeats),
        "mean": figures.mean().to_dict(),
        "sd": figures.std(ddof=1).to_dict() if len(repeats) > 1 else dict.fromkeys(NAMES),
        "min": figures.min().to_dict(),
        "max": figures.max().to_dict(),
        "repeats": repeats,
    }


def running_mean(predictions: pd.DataFrame) -> dict[str, float]:
    """Measure a cross-validation of which only some folds are predicted.

    Args:
        predictions: Rows of the folds so far; a repeat may be incomplete.

    Returns:
        Mean over the repeats, each weighted by the scans it has so far; once all folds are there
        it is the mean of `summarise`. A figure that is not defined yet is left out.
    """
    repeats = [rows for _, rows in predictions.groupby("repeat")]
    figures = pd.DataFrame([classification_metrics(rows) for rows in repeats])[list(NAMES)]
    weights = np.array([len(rows) for rows in repeats], dtype=float)
    means = {}
    for name, values in figures.astype(float).items():
        known = values.notna().to_numpy()
        if known.any():
            means[str(name)] = float(np.average(values[known], weights=weights[known]))
    return means


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
