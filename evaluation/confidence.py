"""What confidence is worth: cases that can be decided, a firm order, labels to doubt."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from evaluation.doubt import errors_found
from evaluation.predictions import class_names_of, probs_of

CHOSEN_ERRORS = (0.05, 0.1)
NEARLY_EVERY = 0.8  # share of repeats
MIN_REPEATS = 3
CONFIDENCE_DIGITS = 9  # as tables are written
DOUBTFUL_SHARE = 0.25  # of all predictions


def accuracy_by_coverage(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the most confident cases, for every share of cases that can be decided.

    A threshold decides all cases of one confidence or none of them.

    Returns:
        Columns repeat, coverage in (0, 1], accuracy; one row per repeat and distinct confidence,
        the highest first.
    """
    level = predictions["confidence"].round(CONFIDENCE_DIGITS).rename("level")
    correct = predictions["label"] == predictions["predicted"]
    groups = correct.groupby([predictions["repeat"], level])
    table = groups.agg(["size", "sum"]).sort_index(level=[0, 1], ascending=[True, False])
    whole = table.groupby(level="repeat")
    count = whole["size"].cumsum()
    return pd.DataFrame(
        {
            "coverage": count / whole["size"].transform("sum"),
            "accuracy": whole["sum"].cumsum() / count,
        }
    ).reset_index()[["repeat", "coverage", "accuracy"]]


def accuracy_at(
    curve: pd.DataFrame, coverage: Float[np.ndarray, " shares"]
) -> Float[np.ndarray, " shares"]:
    """Read a curve at any share: of cases with equal confidence any may be the first to be decided.

    Args:
        curve: Rows of one repeat from `accuracy_by_coverage`.
        coverage: Shares in (0, 1].
    """
    shares = np.append(0.0, curve["coverage"])
    correct = np.append(0.0, curve["coverage"] * curve["accuracy"])
    return np.interp(coverage, shares, correct) / coverage


def confidence_summary(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure the ranking: means over repeats.

    Returns:
        area_under_risk_coverage: mean error over all shares decided, most confident first and
        equally confident ones in any order (lower is better; the error rate itself if confidence
        says nothing);
        coverage_at_error: for each of CHOSEN_ERRORS, the largest share of scans that can be
        decided with no more errors (in hindsight: the threshold is chosen on the same scans);
        rank_correlation: mean Spearman correlation of the confidences of two repeats, None without
        two that have an order; share_flipped: share of scans that not all repeats give the same
        class; errors_found: whether doubt finds the errors, see `doubt.errors_found`.
    """
    numbers = predictions["repeat"].value_counts()
    curves, areas = [], []
    for repeat, curve in accuracy_by_coverage(predictions).groupby("repeat"):
        shares = np.arange(1, numbers[repeat] + 1) / numbers[repeat]
        curves.append(curve)
        areas.append(1 - accuracy_at(curve, shares).mean())
    reach = {
        str(error): float(np.mean([_coverage_at(rows, error) for rows in curves]))
        for error in CHOSEN_ERRORS
    }
    by_scan = predictions.groupby(["patient_id", "image"])
    confidences = predictions.pivot(
        index=["patient_id", "image"], columns="repeat", values="confidence"
    )
    correlation = confidences.corr("spearman").to_numpy()
    pairs = correlation[np.triu_indices(len(correlation), k=1)]
    pairs = pairs[~np.isnan(pairs)]  # a repeat with one confidence for all has no order
    return {
        "area_under_risk_coverage": float(np.mean(areas)),
        "coverage_at_error": reach,
        "rank_correlation": float(pairs.mean()) if len(pairs) else None,
        "share_flipped": float((by_scan["predicted"].nunique() > 1).mean()),
        "errors_found": errors_found(predictions),
    }


def suspected_labels(predictions: pd.DataFrame) -> pd.DataFrame:
    """List scans that nearly every repeat contradicts, the surest contradiction first.

    A model that has not seen the scan is sure of another class, again and again: the label may be
    wrong, or the scan be unlike its class. Someone should look; nothing is changed.

    Args:
        predictions: A predictions table.

    Returns:
        Columns patient_id, image, label, predicted, share_wrong (of the repeats), contradiction
        (mean lead of the best other class over the label, in outputs), suspected. Every scan that
        most repeats contradict has a row; `suspected` marks those that at least 4 in 5 repeats
        contradict, with a lead above the least confident quarter of all predictions; it needs
        three repeats.
    """
    names, probs = class_names_of(predictions), probs_of(predictions)
    column = np.array([names.index(label) for label in predictions["label"]])
    own = probs[np.arange(len(column)), column]
    probs[np.arange(len(column)), column] = -np.inf
    table = predictions.assign(
        contradiction=probs.max(axis=1) - own,
        other=np.array(names, dtype=object)[probs.argmax(axis=1)],
        wrong=predictions["predicted"] != predictions["label"],
    )
    scans = table.groupby(["patient_id", "image", "label"], sort=False).agg(
        predicted=("other", lambda others: others.mode().iloc[0]),
        share_wrong=("wrong", "mean"),
        contradiction=("contradiction", "mean"),
    )
    scans = scans[scans["share_wrong"] > 0.5].reset_index()
    sure = scans["contradiction"] > predictions["confidence"].quantile(DOUBTFUL_SHARE)
    often = scans["share_wrong"] >= NEARLY_EVERY
    enough = predictions["repeat"].nunique() >= MIN_REPEATS
    scans["suspected"] = sure & often & enough
    return scans.sort_values(
        ["contradiction", "patient_id", "image"], ascending=[False, True, True], ignore_index=True
    )


def _coverage_at(curve: pd.DataFrame, error: float) -> float:
    allowed = curve.loc[1 - curve["accuracy"] <= error + 1e-12, "coverage"]
    return float(allowed.max()) if len(allowed) else 0.0
