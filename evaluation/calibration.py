"""Whether a probability of 0.8 means eight in ten: logistic calibration, reliability, ECE, Brier.

With two classes the probability is that of the positive class; with more, every class against the
rest, all pooled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from evaluation.intervals import share_interval
from evaluation.predictions import (
    PROB,
    as_cases,
    class_names_of,
    probs_of,
    scans_are_cases,
    with_decision,
)
from evaluation.uncertainty import indicator

SMALLEST = 1e-6  # a smaller score is calibrated as if it were this one
NUM_BINS = 5
NUM_NULL_DRAWS = 1000
FoldRunTables = Mapping[Any, pd.DataFrame]  # by (repeat, fold)


@dataclass(frozen=True)
class Calibration:
    """New scores are the softmax of slope · log(score) + intercept of the class.

    With two classes that is Platt's logistic regression on the logit of the score (Platt 1999),
    its intercept the second class's less the first's; without intercepts it is temperature scaling
    (Guo et al. 2017), the temperature being 1 / slope.

    Args:
        slope: Below 1 makes predictions less confident; more than 0.
        intercepts: One per class; classes with a higher one are predicted more often.
    """

    slope: float
    intercepts: tuple[float, ...]


def held_out(predictions: pd.DataFrame, validation: pd.DataFrame | None) -> FoldRunTables:
    """List for every fold the predictions that it may be calibrated on.

    Those are its validation part's. A fold without one is calibrated on the test parts of the
    other folds of its repeat: nobody there is a patient of its own test part, and all were
    predicted by models that had not met them, of the same kind as its own (cross-validated
    calibration; for sets of classes CV+, Barber et al. 2021).

    Args:
        predictions: A predictions table of whole repeats.
        validation: The same columns for the validation parts of the same folds; None without.

    Returns:
        A table of cases for each (repeat, fold); none for the only fold of a repeat.
    """
    held = {}
    cases = as_cases(predictions)
    for repeat, fold in predictions[["repeat", "fold"]].drop_duplicates().to_numpy():
        if validation is None:
            rows = cases[(cases["repeat"] == repeat) & (cases["fold"] != fold)]
        else:  # a patient may validate several folds
            own = (validation["repeat"] == repeat) & (validation["fold"] == fold)
            rows = as_cases(validation[own])
        if len(rows):
            held[int(repeat), int(fold)] = rows
    return held


def fit_calibration(held: pd.DataFrame, *, keep_slope: bool = False) -> Calibration:
    """Fit slope and intercepts by maximum likelihood on cases that the model has not trained on.

    Models of different folds may lean to different classes; the intercepts take that out, which a
    slope alone cannot. A dozen patients whom the model gets all right would ask for an endless
    slope: standard normal priors on its logarithm and on each intercept keep them within reason,
    and are soon outweighed by data.

    Args:
        held: Their predictions, from `held_out`.
        keep_slope: Fit the intercepts alone.
    """
    held = as_cases(held).sort_values(["patient_id", "image"])  # sums in one order
    logs, is_class = _logs(held), _is_class(held)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, intercepts = np.exp(parameters[0]), parameters[1:]
        logits = slope * logs + intercepts
        surprise = logsumexp(logits, axis=1).sum() - (logits * is_class).sum()
        excess = softmax(logits, axis=1) - is_class
        gradient = np.array([slope * (excess * logs).sum(), *excess.sum(axis=0)]) + parameters
        return float(surprise + 0.5 * parameters @ parameters), gradient

    start = np.zeros(1 + logs.shape[1])
    limits = [(0.0, 0.0) if keep_slope else (None, None), *[(None, None)] * logs.shape[1]]
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, tol=1e-12)
    log_slope, *intercepts = fitted.x
    return Calibration(float(np.exp(log_slope)), tuple(map(float, intercepts)))


def apply_calibration(predictions: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    """Calibrate scores; decisions near the border may change.

    Args:
        predictions: A table with prob_ columns.
        calibration: From `fit_calibration`.

    Returns:
        The table with new prob_ columns, `predicted` and `confidence`.
    """
    logits = calibration.slope * _logs(predictions) + np.array(calibration.intercepts)
    probs = softmax(logits, axis=1)
    columns = {PROB + name: probs[:, k] for k, name in enumerate(class_names_of(predictions))}
    return with_decision(predictions.assign(**columns))


def calibrate(predictions: pd.DataFrame, held: FoldRunTables) -> pd.DataFrame:
    """Calibrate the cases of every fold on others.

    Args:
        predictions: A predictions table.
        held: The others of each of its folds, from `held_out`.

    Returns:
        One row per case and repeat.

    Raises:
        ValueError: If a fold has no others.
    """
    predictions = as_cases(predictions)
    parts = []
    for fold_run, rows in predictions.groupby(["repeat", "fold"], sort=False):
        if fold_run not in held:
            raise ValueError(
                f"Repeat {fold_run[0]}, fold {fold_run[1]} has no cases to calibrate on."
            )
        parts.append(apply_calibration(rows, fit_calibration(held[fold_run])))
    return pd.concat(parts).loc[predictions.index]


def reliability(predictions: pd.DataFrame, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Compare probabilities with what came true, in bins that hold equally many scans.

    Args:
        predictions: A predictions table.
        num_bins: Number of bins; ties may leave fewer.

    Returns:
        One row per bin: prob (mean), observed (share), low and high (95 % interval of `observed`
        over patients), num_scans (of an average repeat).
    """
    prob, outcome, patient = _pooled(predictions)
    place = _bins(prob, num_bins)
    rows = []
    for bin_number in np.unique(place):
        inside = place == bin_number
        low, high = share_interval(outcome[inside], patient[inside])
        rows.append(
            {
                "prob": prob[inside].mean(),
                "observed": outcome[inside].mean(),
                "low": low,
                "high": high,
                "num_scans": inside.sum() / predictions["repeat"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def calibration_error(predictions: pd.DataFrame, num_bins: int = NUM_BINS) -> float:
    """Compute the expected calibration error over bins that hold equally many scans."""
    prob, outcome, _ = _pooled(predictions)
    return _error(prob, outcome, _bins(prob, num_bins))


def calibration_summary(predictions: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Measure calibration: the mean over repeats of Brier score and ECE.

    Args:
        predictions: A predictions table.
        seed: Seed of the simulated labels.

    Returns:
        brier, ece, and ece_if_perfect: the 95 % range of what a model whose probabilities are
        exactly right would show with the same scans; few patients alone make an ECE large.
    """
    prob, outcome, _ = _pooled(predictions)
    per_row = len(prob) // len(predictions)
    number = predictions["repeat"].to_numpy()
    repeats = [number.repeat(per_row) == repeat for repeat in np.unique(number)]
    perfect = _perfect_errors(predictions, repeats, np.random.default_rng(seed))
    return {
        "brier": float(np.mean([np.mean((prob - outcome)[own] ** 2) for own in repeats])),
        "ece": float(
            np.mean(
                [_error(prob[own], outcome[own], _bins(prob[own], NUM_BINS)) for own in repeats]
            )
        ),
        "ece_if_perfect": [float(edge) for edge in np.percentile(perfect, [2.5, 97.5])],
    }


def _perfect_errors(
    predictions: pd.DataFrame, repeats: list[np.ndarray], generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Draw the ECE of a model that is right: whoever has one label gets one draw for all repeats.

    That is a patient, or a scan where scans are cases. The chance of a class is the
    mean of its outputs over the repeats and scans with that label.
    """
    keys = ["patient_id", "image"] if scans_are_cases(predictions) else ["patient_id"]
    labelled = predictions.groupby(keys, sort=True).ngroup().to_numpy()  # in order of their names
    belongs, probs = indicator(labelled, int(labelled.max()) + 1), probs_of(predictions)
    chances = (belongs.T @ probs) / belongs.sum(axis=0)[:, None]  # (labels, classes)
    # Systematic sampling: each class as often as its chance, exactly one if the chances add up to 1
    edges = np.cumsum(np.pad(chances, ((0, 0), (1, 0))), axis=1)
    starts = generator.random((NUM_NULL_DRAWS, len(chances), 1))
    drawn = np.diff(np.floor(edges + starts), axis=-1)  # (draws, labels, classes)
    prob, _, _ = _pooled(predictions)
    per_row = len(prob) // len(predictions)
    drawn = drawn[..., -per_row:].reshape(NUM_NULL_DRAWS, -1)
    errors = []
    for own in repeats:
        bins = np.eye(NUM_BINS)[_bins(prob[own], NUM_BINS)]  # (rows · classes, bins)
        rows = belongs[own[::per_row]]
        by_label = rows.T @ bins.reshape(rows.shape[0], -1)  # (labels, classes · bins)
        observed = drawn @ by_label.reshape(-1, NUM_BINS)
        errors.append(np.abs(prob[own] @ bins - observed).sum(axis=1) / own.sum())
    return np.mean(errors, axis=0)


def _pooled(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, whether they came true, and the patient's index; (N,) or (N · K,)."""
    probs, is_class = probs_of(predictions), _is_class(predictions)
    patient = pd.Categorical(predictions["patient_id"]).codes.astype(int)
    if probs.shape[1] == 2:
        return probs[:, 1], is_class[:, 1], patient
    return probs.ravel(), is_class.ravel(), np.repeat(patient, probs.shape[1])


def _bins(prob: np.ndarray, num_bins: int) -> np.ndarray:
    edges = np.quantile(prob, np.linspace(0, 1, num_bins + 1)[1:-1])
    return np.searchsorted(edges, prob, side="right")


def _error(prob: np.ndarray, outcome: np.ndarray, place: np.ndarray) -> float:
    gap = np.bincount(place, weights=prob - outcome)
    return float(np.abs(gap).sum() / len(prob))


def _is_class(table: pd.DataFrame) -> Float[np.ndarray, "rows classes"]:
    names = class_names_of(table)
    return (table["label"].to_numpy()[:, None] == np.array(names, dtype=object)).astype(float)


def _logs(table: pd.DataFrame) -> Float[np.ndarray, "rows classes"]:
    return np.log(np.maximum(probs_of(table), SMALLEST))
