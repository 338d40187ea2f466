"""A cohort from elsewhere: what is lost against the out-of-fold figures of the training cohort.

The two cohorts have no patient in common, so the interval of a difference combines the intervals
of both figures by Newcombe's method (1998; "MOVER", Zou and Donner 2008). Each figure is that of
one model: out of fold a patient is predicted by one model of a repeat, and elsewhere every model
predicts everyone, as if it were a repeat. The average of all models is often better than one; it
is no part of the difference.
"""

from typing import Any

import numpy as np
import pandas as pd

from evaluation.calibration import apply_calibration, calibration_summary, fit_calibration
from evaluation.intervals import headline_intervals
from evaluation.predictions import as_cases
from evaluation.regression import is_regression, regression_estimates
from evaluation.regression_intervals import regression_intervals
from evaluation.uncertainty import estimates

FIGURES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
ERRORS = {"mae": "mean absolute error", "rmse": "root mean squared error"}  # lower is better


def drops(at_home: pd.DataFrame, elsewhere: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Measure what a figure loses from one cohort to another.

    Args:
        at_home: Out-of-fold predictions of the training cohort.
        elsewhere: Predictions of the other cohort; each model is a repeat.

    Returns:
        For each of FIGURES: at_home, elsewhere, drop (positive is worse elsewhere), interval_95;
        of numbers for each of ERRORS, where the drop is what the error grows by.
    """
    both = at_home, elsewhere
    if is_regression(elsewhere):
        names, order = ERRORS, -1  # an error grows
        figures = [regression_estimates(each) for each in both]
        intervals = [regression_intervals(each) for each in both]
    else:
        names, order = FIGURES, 1
        figures = [estimates(as_cases(each)) for each in both]
        intervals = [headline_intervals(as_cases(each)) for each in both]
    found = {}
    for name in names:
        ends = [(each[name], *other[name]) for each, other in zip(figures, intervals, strict=True)]
        (more, more_low, more_high), (less, less_low, less_high) = ends[::order]
        drop = more - less
        found[name] = {
            "at_home": figures[0][name],
            "elsewhere": figures[1][name],
            "drop": drop,
            "interval_95": [
                float(drop - np.hypot(more - more_low, less_high - less)),
                float(drop + np.hypot(more_high - more, less - less_low)),
            ],
        }
    return found


def recalibration(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure calibration as predicted, and after new intercepts alone.

    The intercepts are fitted on the same patients: what a site gains that knows its own shares of
    the classes, at best.

    Args:
        predictions: Predictions of the other cohort, calibrated as new scans are.

    Returns:
        Calibration as_predicted and with new intercepts; of numbers the mean absolute error, and
        the mean error that a new intercept takes away.
    """
    if is_regression(predictions):
        bias = regression_estimates(predictions)["bias"]
        shifted = predictions.assign(predicted=predictions["predicted"] - bias)
        tables = {"as_predicted": predictions, "intercepts": shifted}
        return {
            name: {key: regression_estimates(table)[key] for key in ("mae", "bias", "slope")}
            for name, table in tables.items()
        }
    cases = as_cases(predictions)
    moved = apply_calibration(cases, fit_calibration(cases, keep_slope=True))
    return {"as_predicted": calibration_summary(cases), "intercepts": calibration_summary(moved)}


def external_sentences(
    name: str, found: dict[str, dict[str, Any]], calibration: dict[str, Any]
) -> list[str]:
    """Tell in words what was lost, and how far the probabilities can be believed there.

    Args:
        name: Name of the run that predicts.
        found: From `drops`.
        calibration: From `recalibration`.
    """
    if "mae" in found:
        return _number_sentences(name, found, calibration)
    sentences = []
    for measure, words in FIGURES.items():
        its = found[measure]
        low, high = its["interval_95"]
        if low > 0:
            verdict = "it is worse here"
        elif high < 0:
            verdict = "it is better here"
        else:
            verdict = "a difference is not shown"
        sentences.append(
            f"The {words} of one model is {its['elsewhere']:.3f} here and was {its['at_home']:.3f} "
            f"out of fold in `{name}`: a drop of {its['drop']:.3f} (95 % interval {low:.3f} to "
            f"{high:.3f}); {verdict}."
        )
    before, after = calibration["as_predicted"], calibration["intercepts"]
    sentences.append(
        f"Probabilities as predicted: Brier score {before['brier']:.3f}, calibration error "
        f"{before['ece']:.3f} ({before['ece_if_perfect'][0]:.3f} to "
        f"{before['ece_if_perfect'][1]:.3f} if they were exactly right). With new intercepts "
        f"alone, fitted on these patients: {after['brier']:.3f} and {after['ece']:.3f}."
    )
    return sentences


def _number_sentences(
    name: str, found: dict[str, dict[str, Any]], calibration: dict[str, Any]
) -> list[str]:
    sentences = []
    for measure, words in ERRORS.items():
        its = found[measure]
        low, high = its["interval_95"]
        verdict = "a difference is not shown"
        if low > 0 or high < 0:
            verdict = f"it is {'worse' if low > 0 else 'better'} here"
        sentences.append(
            f"The {words} of one model is {its['elsewhere']:.4g} here and was "
            f"{its['at_home']:.4g} out of fold in `{name}`: {its['drop']:+.4g} (95 % interval "
            f"{low:+.4g} to {high:+.4g}); {verdict}."
        )
    before, after = calibration["as_predicted"], calibration["intercepts"]
    sentences.append(
        f"All models averaged: mean absolute error {before['mae']:.4g}, mean error "
        f"{before['bias']:+.4g}, calibration slope {before['slope']:.3f}. With a new intercept "
        f"alone, fitted on these patients: mean absolute error {after['mae']:.4g}."
    )
    return sentences
