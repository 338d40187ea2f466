"""Whether a probability of 0.8 means eight in ten: logistic calibration, reliability, ECE, Brier.

With two classes the probability is that of the positive class; with more, every class against the
rest, all pooled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from evaluation.intervals import share_interval
from evaluation.predictions import PROB, as_cases, class_names_of, probs_of, with_decision
from evaluation.uncertainty import counts_of_draws

SMALLEST = 1e-6  # a smaller score is calibrated as if it were this one
NUM_BINS = 5
NUM_NULL_DRAWS = 1000


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


def fit_calibration(validation: pd.DataFrame) -> Calibration:
    """Fit slope and intercepts by maximum likelihood on the cases of a validation part.

    Models of different folds may lean to different classes; the intercepts take that out, which a
    slope alone cannot. A dozen patients whom the model gets all right would ask for an endless
    slope: standard normal priors on its logarithm and on each intercept keep them within reason,
    and are soon outweighed by data.

    Args:
        validation: Predictions of the validation part of one fold.
    """
    validation = as_cases(validation)
    logs, is_class = _logs(validation), _is_class(validation)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, intercepts = np.exp(parameters[0]), parameters[1:]
        logits = slope * logs + intercepts
        surprise = logsumexp(logits, axis=1).sum() - (logits * is_class).sum()
        excess = softmax(logits, axis=1) - is_class
        gradient = np.array([slope * (excess * logs).sum(), *excess.sum(axis=0)]) + parameters
        return float(surprise + 0.5 * parameters @ parameters), gradient

    start = np.zeros(1 + logs.shape[1])
    log_slope, *intercepts = minimize(loss, start, jac=True, method="L-BFGS-B", tol=1e-12).x
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


def calibrate(predictions: pd.DataFrame, validation: pd.DataFrame) -> pd.DataFrame:
    """Calibrate the cases of every fold on its own validation patients.

    Args:
        predictions: A predictions table.
        validation: The same columns for the validation parts of the same folds.

    Returns:
        One row per case and repeat.

    Raises:
        ValueError: If a fold has no validation rows.
    """
    predictions = as_cases(predictions)
    parts = []
    held = dict(list(validation.groupby(["repeat", "fold"])))
    for cell, rows in predictions.groupby(["repeat", "fold"], sort=False):
        if cell not in held:
            raise ValueError(f"Repeat {cell[0]}, fold {cell[1]} has no validation predictions.")
        parts.append(apply_calibration(rows, fit_calibration(held[cell])))
    return pd.concat(parts).loc[predictions.index]


def reliability(predictions: pd.DataFrame, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Compare probabilities with what came true, in bins that hold equally many scans.

    Args:
        predictions: A predictions table.
        num_bins: Number of bins; ties may leave fewer.

    Returns:
        One row per bin: prob (mean), observed (share), low and high (95 % interval of `observed`,
        bootstrap over patients), num_scans (of an average repeat).
    """
    prob, outcome, patient = _pooled(predictions)
    place = _bins(prob, num_bins)
    counts = counts_of_draws(predictions["patient_id"].nunique())
    rows = []
    for bin_number in np.unique(place):
        inside = place == bin_number
        cases = np.bincount(patient[inside], minlength=counts.shape[1])
        hits = np.bincount(patient[inside], weights=outcome[inside], minlength=counts.shape[1])
        with np.errstate(invalid="ignore"):
            draws = (counts @ hits) / (counts @ cases)
        observed = float(outcome[inside].mean())
        low, high = share_interval(observed, draws, int((cases > 0).sum()))
        rows.append(
            {
                "prob": prob[inside].mean(),
                "observed": observed,
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
        exactly right would show with as many scans; few scans alone make an ECE large.
    """
    repeats = [_pooled(rows)[:2] for _, rows in predictions.groupby("repeat")]
    generator = np.random.default_rng(seed)
    perfect = np.zeros(NUM_NULL_DRAWS)
    for prob, _ in repeats:
        place = _bins(prob, NUM_BINS)
        outcomes = generator.random((NUM_NULL_DRAWS, len(prob))) < prob
        perfect += [_error(prob, outcome, place) / len(repeats) for outcome in outcomes]
    return {
        "brier": float(np.mean([np.mean((prob - outcome) ** 2) for prob, outcome in repeats])),
        "ece": float(np.mean([_error(p, outcome, _bins(p, NUM_BINS)) for p, outcome in repeats])),
        "ece_if_perfect": [float(edge) for edge in np.percentile(perfect, [2.5, 97.5])],
    }


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
