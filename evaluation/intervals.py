"""95 % intervals, and what a number of patients can and cannot show.

Intervals are over patients, the trained models as they are; `evaluation.limits` has the methods.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from evaluation.limits import difference_limits, effective_numbers, lenders_of, limits_of, mover
from evaluation.predictions import PROB, class_names_of
from evaluation.uncertainty import (
    estimates,
    indicator,
    parts_of,
    repeats_of,
    share_part,
    value_of,
)

Interval = tuple[float, float]
POWER = 0.8
METHODS = {"wilson": "wilson", "clopper_pearson": "beta"}  # as statsmodels names them
UNKNOWN: Interval = (float("nan"), float("nan"))


def headline_intervals(predictions: pd.DataFrame) -> dict[str, Interval]:
    """Compute the interval of each of MEASURES over patients, the trained models as they are.

    Args:
        predictions: A predictions table; with repeats the figures are their means.

    Returns:
        By measure; NaN where the figure is, or an AUROC with a single patient of a class.
    """
    limits = limits_of(parts_of(repeats_of(predictions)))
    return {name: (low.item(), high.item()) for name, (low, high) in limits.items()}


def difference_intervals(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Interval]:
    """Compute the interval of each paired difference, `first` less `second`.

    Args:
        first: A predictions table.
        second: A predictions table of the same scans and repeats.
    """
    parts = [parts_of(repeats_of(table)) for table in (first, second)]
    limits = difference_limits(*parts)
    return {name: (low.item(), high.item()) for name, (low, high) in limits.items()}


def share_interval(hits: np.ndarray, patients: np.ndarray) -> Interval:
    """Compute Wilson's interval of a share of rows, of which a patient can have several.

    Args:
        hits: Whether each row counts, (N,).
        patients: The patient of each row, (N,).
    """
    codes = pd.Categorical(patients).codes.astype(int)
    everyone = np.ones(len(codes), dtype=bool)
    part = share_part(hits[None] > 0, everyone, indicator(codes, int(codes.max(initial=-1)) + 1))
    low, high = mover([part], [part])
    return low.item(), high.item()


def proportion_intervals(share: float, num_patients: float) -> dict[str, Interval]:
    """Compute 95 % intervals of a share of cases.

    Args:
        share: The share.
        num_patients: Independent cases; of scans and repeats an effective number of patients.

    Returns:
        wilson and clopper_pearson; NaN without patients.
    """
    if not num_patients or np.isnan(share):
        return dict.fromkeys(METHODS, UNKNOWN)
    found = {}
    for name, method in METHODS.items():
        low, high = proportion_confint(share * num_patients, num_patients, method=method)
        found[name] = (float(low), float(high))
    return found


def delong_interval(predictions: pd.DataFrame) -> Interval:
    """Compute the interval of the AUROC; see `headline_intervals`."""
    return headline_intervals(predictions)["auroc"]


def closed_intervals(predictions: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """Compute the intervals of single shares by two methods, and that of the AUROC.

    Returns:
        auroc (delong), and accuracy, and with two classes sensitivity and specificity (wilson and
        clopper_pearson, with effective numbers of patients), by measure and method.
    """
    parts = parts_of(repeats_of(predictions))
    found = {"auroc": {"delong": delong_interval(predictions)}}
    for name in ("accuracy", "sensitivity", "specificity"):
        if len(parts[name]) == 1:
            number = effective_numbers(parts[name], lenders_of(parts, name))
            found[name] = proportion_intervals(value_of(parts[name]).item(), number.item())
    return found


def what_can_be_shown(predictions: pd.DataFrame) -> dict[str, Any]:
    """Say what this many patients can tell apart.

    Returns:
        smallest_auroc: the true AUROC that is told from 0.5 four times in five (two-sided 5 %
        test; Hanley and McNeil's variance at 0.5), from the rarest class against the rest;
        accuracy_margin: half the width of Wilson's interval of the accuracy; sentence: both in
        words.
    """
    names = class_names_of(predictions)
    num_patients = predictions["patient_id"].nunique()
    rarest = min(names, key=lambda name: _num_patients(predictions, name))
    few = _num_patients(predictions, rarest)
    others = predictions[predictions["label"] != rarest]["patient_id"].nunique()
    error = np.sqrt((few + others + 1) / (12 * few * others)) if few and others else np.inf
    smallest = min(0.5 + (norm.ppf(0.975) + norm.ppf(POWER)) * float(error), 1.0)
    accuracy = estimates(predictions)["accuracy"]
    low, high = proportion_intervals(accuracy, num_patients)["wilson"]
    margin = (high - low) / 2
    sentence = (
        f"With {num_patients} patients ({few} with a scan that is {rarest!r}) an accuracy is "
        f"uncertain by about ±{100 * margin:.0f} points, and a model is told from chance four "
        f"times in five only if its true AUROC is {smallest:.2f} or more; smaller effects, rare "
        "subgroups and differences between two good models mostly stay hidden."
    )
    return {"smallest_auroc": smallest, "accuracy_margin": margin, "sentence": sentence}


def dummy_auroc(predictions: pd.DataFrame, splits: pd.DataFrame, cohort: pd.DataFrame) -> float:
    """AUROC of a model that only knows the share of the classes among its training patients.

    Pooled over folds it is not 0.5: leaving a case out lowers the share of its own class, so that
    leave-one-out gives 0 (and pulls every model down), k folds a little below 0.5.

    Args:
        predictions: A predictions table.
        splits: The splits table of the same run.
        cohort: Columns patient_id and label of every scan, those that are never tested included.
    """
    columns = [PROB + name for name in class_names_of(predictions)]
    constant = predictions.astype(dict.fromkeys(columns, float))
    for (repeat, fold), rows in predictions.groupby(["repeat", "fold"]):
        parts = splits[(splits["repeat"] == repeat) & (splits["fold"] == fold)]
        trained = set(parts.loc[parts["part"] == "train", "patient_id"])
        seen = cohort.loc[cohort["patient_id"].isin(trained), "label"]
        for name in class_names_of(predictions):
            constant.loc[rows.index, PROB + name] = float((seen == name).mean())
    return estimates(constant)["auroc"]


def _num_patients(predictions: pd.DataFrame, label: str) -> int:
    return int(predictions.loc[predictions["label"] == label, "patient_id"].nunique())
