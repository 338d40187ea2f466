"""Whether a probability of 0.8 means eight in ten: temperature scaling, reliability, ECE, Brier.

With two classes the probability is that of the positive class; with more, every class against the
rest, all pooled.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from evaluation.intervals import share_interval
from evaluation.predictions import PROB, class_names_of, probs_of, with_decision
from evaluation.uncertainty import counts_of_draws

SMALLEST = 1e-6  # outputs nearer to 0 or 1 are taken as this near
NUM_BINS = 5
NUM_NULL_DRAWS = 1000


def fit_temperature(validation: pd.DataFrame) -> float:
    """Fit the one number that logits are divided by (Guo et al. 2017), on validation patients.

    The likelihood is that of one sigmoid per class, as the network is trained. A dozen patients
    whom the model gets all right would ask for a temperature of zero: a standard normal prior on
    its logarithm keeps it within reason and is soon outweighed by data.

    Args:
        validation: Predictions of the validation part of one fold.

    Returns:
        The temperature; above 1 makes predictions less confident.
    """
    logits, is_class = _logits(validation), _is_class(validation)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        likelihood = np.logaddexp(0, scaled) - is_class * scaled
        return float(likelihood.sum() + 0.5 * log_temperature**2)

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def apply_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Divide the logits by a temperature; classes keep their order, confidence changes.

    Args:
        predictions: A table with prob_ columns.
        temperature: From `fit_temperature`.

    Returns:
        The table with new prob_ columns, `predicted` and `confidence`.
    """
    probs = expit(_logits(predictions) / temperature)
    columns = {PROB + name: probs[:, k] for k, name in enumerate(class_names_of(predictions))}
    return with_decision(predictions.assign(**columns))


def calibrate(predictions: pd.DataFrame, validation: pd.DataFrame) -> pd.DataFrame:
    """Scale the predictions of every fold by the temperature of its own validation patients.

    Args:
        predictions: A predictions table.
        validation: The same columns for the validation parts of the same folds.

    Raises:
        ValueError: If a fold has no validation rows.
    """
    parts = []
    held = dict(list(validation.groupby(["repeat", "fold"])))
    for cell, rows in predictions.groupby(["repeat", "fold"], sort=False):
        if cell not in held:
            raise ValueError(f"Repeat {cell[0]}, fold {cell[1]} has no validation predictions.")
        parts.append(apply_temperature(rows, fit_temperature(held[cell])))
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


def _logits(table: pd.DataFrame) -> Float[np.ndarray, "rows classes"]:
    return logit(np.clip(probs_of(table), SMALLEST, 1 - SMALLEST))
