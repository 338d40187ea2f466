"""Sets of classes that hold the true one as often as asked for (conformal prediction).

Patients whom a fold's model has not trained on tell how far below certainty the output of the true
class may lie; every class within that distance is in a new scan's set. They are the fold's
validation part (split conformal prediction: guaranteed for one scan of a new patient drawn from the
same population, on average, were it not that they may have chosen the checkpoint), or the test
parts of the other folds (CV+, Barber et al. 2021: guaranteed is twice the error, and the error
itself is what is seen). Hence the coverage is measured as well.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from evaluation.calibration import FoldRunTables
from evaluation.intervals import share_interval
from evaluation.predictions import class_names_of, probs_of

SEPARATOR = "|"


def prediction_sets(
    predictions: pd.DataFrame, held: FoldRunTables, error: float = 0.1
) -> pd.DataFrame:
    """Give every scan the set of classes that its fold cannot rule out.

    Args:
        predictions: A predictions table.
        held: For each of its folds the cases that calibrate it, from `held_out`.
        error: Share of scans whose set may miss the true class, in (0, 1).

    Returns:
        The columns patient_id, image, repeat, fold, label, set (classes joined by "|", perhaps
        none), size, and covered.
    """
    names = class_names_of(predictions)
    parts = []
    for fold_run, rows in predictions.groupby(["repeat", "fold"], sort=False):
        inside = 1 - probs_of(rows) <= _threshold(held[fold_run], error)
        sets = [[name for name, kept in zip(names, row, strict=True) if kept] for row in inside]
        facts = rows[["patient_id", "image", "repeat", "fold", "label"]]
        parts.append(
            facts.assign(
                set=[SEPARATOR.join(kept) for kept in sets],
                size=[len(kept) for kept in sets],
                covered=[label in kept for label, kept in zip(rows["label"], sets, strict=True)],
            )
        )
    return pd.concat(parts).loc[predictions.index]


def conformal_summary(
    predictions: pd.DataFrame, held: FoldRunTables, error: float = 0.1
) -> dict[str, Any]:
    """Measure how often the sets hold the true class, and how large they are.

    Returns:
        error, coverage with its 95 % interval (over patients), mean_size, share_single
        (sets of one class: the scans that are decided) and share_empty.
    """
    sets = prediction_sets(predictions, held, error)
    return {
        "error": error,
        "coverage": float(sets["covered"].mean()),
        "interval_95": share_interval(sets["covered"].to_numpy(), sets["patient_id"].to_numpy()),
        "mean_size": float(sets["size"].mean()),
        "share_single": float((sets["size"] == 1).mean()),
        "share_empty": float((sets["size"] == 0).mean()),
    }


def _threshold(held: pd.DataFrame, error: float) -> float:
    """Largest distance from certainty; each patient has one vote, and the new one a vote too."""
    names = class_names_of(held)
    column = np.array([names.index(label) for label in held["label"]])
    distance = 1 - probs_of(held)[np.arange(len(column)), column]
    scans = held["patient_id"].map(held["patient_id"].value_counts()).to_numpy()
    return _weighted_quantile(distance, 1 / scans, (1 - error), extra=1.0)


def _weighted_quantile(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], level: float, extra: float
) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= level * (weights.sum() + extra) - 1e-9
    return float(values[order][reached.argmax()]) if reached.any() else float("inf")
