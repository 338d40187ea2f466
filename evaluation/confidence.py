"""What confidence is worth: cases that can be decided, a firm order, labels to doubt."""

from typing import Any

import numpy as np
import pandas as pd

from evaluation.predictions import class_names_of, probs_of

CHOSEN_ERRORS = (0.05, 0.1)
NEARLY_EVERY = 0.8  # share of repeats
MIN_REPEATS = 3
DOUBTFUL_SHARE = 0.25  # of all predictions


def accuracy_by_coverage(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the most confident cases, for every share of cases that is decided.

    Returns:
        Columns repeat, coverage in (0, 1], accuracy; one row per repeat and number of cases.
    """
    curves = []
    for repeat, rows in predictions.groupby("repeat"):
        ordered = rows.sort_values("confidence", ascending=False)
        correct = (ordered["label"] == ordered["predicted"]).to_numpy()
        count = np.arange(1, len(rows) + 1)
        curves.append(
            pd.DataFrame(
                {"coverage": count / len(rows), "accuracy": correct.cumsum() / count}
            ).assign(repeat=repeat)
        )
    return pd.concat(curves, ignore_index=True)


def confidence_summary(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure the ranking: means over repeats.

    Returns:
        area_under_risk_coverage: mean error over all shares decided, most confident first (lower
        is better; the error rate itself if confidence says nothing);
        coverage_at_error: for each of CHOSEN_ERRORS, the largest share of scans that can be
        decided with no more errors (in hindsight: the threshold is chosen on the same scans);
        rank_correlation: mean Spearman correlation of the confidences of two repeats, None with
        one repeat; share_flipped: share of scans that not all repeats give the same class.
    """
    curves = [rows for _, rows in accuracy_by_coverage(predictions).groupby("repeat")]
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
    return {
        "area_under_risk_coverage": float(
            np.mean([1 - rows["accuracy"].mean() for rows in curves])
        ),
        "coverage_at_error": reach,
        "rank_correlation": float(pairs.mean()) if len(pairs) else None,
        "share_flipped": float((by_scan["predicted"].nunique() > 1).mean()),
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
