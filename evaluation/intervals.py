"""95 % intervals, and what a number of patients can and cannot show.

Percentiles of a bootstrap cover too seldom with few patients (85 to 92 % in simulations with 30 to
40 patients). So the bootstrap gives the standard error alone, and the interval is symmetric on the
scale that suits the figure, with Student's t for the number of patients: the logit for figures
between 0 and 1, the plain scale for differences.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student_t
from statsmodels.stats.proportion import proportion_confint

from evaluation.predictions import PROB, class_names_of
from evaluation.uncertainty import Draws, auroc_influence, estimates

Interval = tuple[float, float]
POWER = 0.8
METHODS = {"wilson": "wilson", "clopper_pearson": "beta"}  # as statsmodels names them
UNKNOWN: Interval = (float("nan"), float("nan"))


def bootstrap_intervals(predictions: pd.DataFrame, draws: Draws) -> dict[str, Interval]:
    """Compute the interval of each measure from its bootstrap.

    Args:
        predictions: A predictions table.
        draws: Its `bootstrap`.
    """
    figures = estimates(predictions)
    return {
        name: share_interval(figures[name], draws[name], cases)
        for name, cases in num_cases(predictions).items()
    }


def share_interval(estimate: float, draws: Float[np.ndarray, " draws"], cases: int) -> Interval:
    """Compute the interval of a figure between 0 and 1 from its bootstrap draws.

    Args:
        estimate: The figure.
        draws: Its bootstrap; NaN where a draw has none.
        cases: Independent cases behind it, of which one degree of freedom is spent.

    Returns:
        Wilson's interval where the figure is 0 or 1 and draws say nothing; NaN without a figure.
    """
    if np.isnan(estimate) or cases < 2 or np.isnan(draws).all():
        return UNKNOWN
    if not 0 < estimate < 1:
        return proportion_intervals(estimate, cases)["wilson"]
    return _logit_interval(estimate, _standard_error(draws, cases), cases)


def difference_interval(
    estimate: float, draws: Float[np.ndarray, " draws"], cases: int
) -> Interval:
    """Compute the interval of a paired difference from its draws; see `share_interval`."""
    if np.isnan(estimate) or cases < 2 or np.isnan(draws).all():
        return UNKNOWN
    reach = student_t.ppf(0.975, cases - 1) * _standard_error(draws, cases)
    return estimate - reach, estimate + reach


def num_cases(predictions: pd.DataFrame) -> dict[str, int]:
    """Count the cases behind each measure: patients, less one for every class after the first."""
    names = class_names_of(predictions)
    everyone = predictions["patient_id"].nunique()
    cases = {
        "accuracy": everyone,
        "balanced_accuracy": everyone - len(names) + 1,
        "sensitivity": everyone - len(names) + 1,
        "specificity": everyone - len(names) + 1,
        "auroc": everyone - len(names) + 1,
    }
    if len(names) == 2:
        cases["specificity"], cases["sensitivity"] = (
            _num_patients(predictions, name) for name in names
        )
    return cases


def proportion_intervals(share: float, num_patients: int) -> dict[str, Interval]:
    """Compute 95 % intervals of a share of cases.

    Args:
        share: The share; over repeats, its mean, for repeats are no further cases.
        num_patients: Independent cases: patients, not their scans, which is the safe side.

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
    """Compute DeLong's interval of the AUROC, on the logit scale, clustered by patient.

    Args:
        predictions: A predictions table; with repeats the AUROC is their mean.

    Returns:
        NaN where a class is missing, or where the AUROC is 0 or 1 and the method has no answer.
    """
    auroc = estimates(predictions)["auroc"]
    if not 0 < auroc < 1:  # also NaN
        return UNKNOWN
    variance = np.square(auroc_influence(predictions).mean(axis=0)).sum()
    return _logit_interval(auroc, float(np.sqrt(variance)), num_cases(predictions)["auroc"])


def closed_intervals(predictions: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """Compute the closed-form 95 % intervals of the headline measures.

    Returns:
        auroc (delong), and accuracy, and with two classes sensitivity and specificity (wilson and
        clopper_pearson), by measure and method.
    """
    figures, cases = estimates(predictions), num_cases(predictions)
    shares = ["accuracy"]
    if len(class_names_of(predictions)) == 2:
        shares += ["sensitivity", "specificity"]
    return {"auroc": {"delong": delong_interval(predictions)}} | {
        name: proportion_intervals(figures[name], cases[name]) for name in shares
    }


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


def _logit_interval(estimate: float, error: float, cases: int) -> Interval:
    reach = student_t.ppf(0.975, cases - 1) * error / (estimate * (1 - estimate))
    return float(expit(logit(estimate) - reach)), float(expit(logit(estimate) + reach))


def _standard_error(draws: np.ndarray, cases: int) -> float:
    """Spread of the draws; a bootstrap of n cases is too narrow by (n - 1) / n."""
    return float(np.nanstd(draws, ddof=1) * np.sqrt(cases / (cases - 1)))


def _num_patients(predictions: pd.DataFrame, label: str) -> int:
    return int(predictions.loc[predictions["label"] == label, "patient_id"].nunique())
