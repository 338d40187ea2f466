"""How sure a figure is: every measure as a function of how often each patient counts.

The unit is the patient: two scans or ten repeats of one patient are not independent cases. A
bootstrap draw counts each patient 0, 1, 2, … times with all scans and repeats; counting everyone
once gives the figure itself. What the draws leave out is the luck of folds and first weights,
which the spread over repeats shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from evaluation.predictions import class_names_of, probs_of

MEASURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc")
Draws = dict[str, Float[np.ndarray, " draws"]]


def measures(predictions: pd.DataFrame, counts: Int[np.ndarray, "draws patients"]) -> Draws:
    """Compute the mean over repeats of each of MEASURES.

    Args:
        predictions: A predictions table.
        counts: How often each patient counts; patients in the order of their sorted ids.

    Returns:
        One array per measure; NaN where a draw has no patient of a class.
    """
    repeats = [_measures_of(rows, counts.astype(float)) for rows in _repeats(predictions)]
    return {name: np.mean([repeat[name] for repeat in repeats], axis=0) for name in MEASURES}


def estimates(predictions: pd.DataFrame) -> dict[str, float]:
    """Compute each of MEASURES with every patient counted once."""
    everyone = np.ones((1, predictions["patient_id"].nunique()), dtype=int)
    return {name: float(values[0]) for name, values in measures(predictions, everyone).items()}


def bootstrap(predictions: pd.DataFrame, num_draws: int = 2000, seed: int = 0) -> Draws:
    """Compute `measures` for patients drawn with replacement.

    Tables of the same patients get the same draws, so that the draws of a paired difference are
    the difference of two results.

    Args:
        predictions: A predictions table.
        num_draws: Number of draws.
        seed: Seed of the draws.
    """
    num_patients = predictions["patient_id"].nunique()
    return measures(predictions, counts_of_draws(num_patients, num_draws, seed))


def counts_of_draws(
    num_patients: int, num_draws: int = 2000, seed: int = 0
) -> Int[np.ndarray, "draws patients"]:
    """Draw patients with replacement: how often each of them counts in each draw."""
    shares = np.full(num_patients, 1 / num_patients)
    return np.random.default_rng(seed).multinomial(num_patients, shares, size=num_draws)


def auroc_influence(predictions: pd.DataFrame) -> Float[np.ndarray, "repeats patients"]:
    """How far each patient moves the AUROC of each repeat; squares add up to its variance.

    With one scan per patient and two classes this is DeLong's variance (DeLong, DeLong and
    Clarke-Pearson 1988); summing over a patient's scans extends it to clustered data (Obuchowski
    1997). With more than two classes, the AUROCs of each against the rest are averaged.

    Args:
        predictions: A predictions table.

    Returns:
        One row per repeat, patients in the order of their sorted ids.
    """
    return np.array(
        [
            np.mean(
                [
                    _influence(rows.probs[:, k], rows.true == k, rows.patient, rows.num_patients)
                    for k in rows.headline_classes
                ],
                axis=0,
            )
            for rows in _repeats(predictions)
        ]
    )


@dataclass(frozen=True)
class _Repeat:
    """Rows of one repeat: patient index (N,), true and predicted class (N,), outputs (N, K)."""

    num_patients: int
    patient: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    probs: np.ndarray

    @property
    def headline_classes(self) -> range:
        """The positive class; with more than two, every class against the rest."""
        num_classes = self.probs.shape[1]
        return range(num_classes) if num_classes > 2 else range(1, 2)

    def per_patient(self, of_rows: np.ndarray) -> np.ndarray:
        """Sum a figure of the rows over each patient."""
        return np.bincount(self.patient, weights=of_rows, minlength=self.num_patients)


def _repeats(predictions: pd.DataFrame) -> Iterator[_Repeat]:
    names = class_names_of(predictions)
    patients = sorted(predictions["patient_id"].unique())
    for _, rows in predictions.groupby("repeat"):
        yield _Repeat(
            num_patients=len(patients),
            patient=pd.Categorical(rows["patient_id"], patients).codes.astype(int),
            true=pd.Categorical(rows["label"], names).codes,
            predicted=pd.Categorical(rows["predicted"], names).codes,
            probs=probs_of(rows),
        )


def _measures_of(rows: _Repeat, counts: np.ndarray) -> Draws:
    def share(hits: np.ndarray, cases: np.ndarray) -> np.ndarray:
        return _divide(counts @ rows.per_patient(hits & cases), counts @ rows.per_patient(cases))

    classes = range(rows.probs.shape[1])
    recall = [share(rows.predicted == k, rows.true == k) for k in classes]
    headline = rows.headline_classes
    return {
        "accuracy": share(rows.predicted == rows.true, np.ones(len(rows.true), dtype=bool)),
        "balanced_accuracy": np.mean(recall, axis=0),
        "sensitivity": np.mean([recall[k] for k in headline], axis=0),
        "specificity": np.mean(
            [share(rows.predicted != k, rows.true != k) for k in headline], axis=0
        ),
        "auroc": np.mean([_auroc(rows, k, counts) for k in headline], axis=0),
    }


def _auroc(rows: _Repeat, k: int, counts: np.ndarray) -> np.ndarray:
    """AUROC of class k against the rest, each pair of scans weighted by both patients' counts."""
    positive = rows.true == k
    wins = _wins(rows.probs[positive, k], rows.probs[~positive, k])  # (positive, negative)
    by_patient = np.zeros((rows.num_patients, rows.num_patients))
    places = np.ix_(rows.patient[positive], rows.patient[~positive])
    np.add.at(by_patient, places, wins)
    num_pairs = (counts @ rows.per_patient(positive)) * (counts @ rows.per_patient(~positive))
    return _divide(((counts @ by_patient) * counts).sum(axis=1), num_pairs)


def _wins(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    difference = positive[:, None] - negative[None, :]
    return (difference > 0) + 0.5 * (difference == 0)


def _influence(
    score: Float[np.ndarray, " rows"],
    true: Bool[np.ndarray, " rows"],
    patient: Int[np.ndarray, " rows"],
    num_patients: int,
) -> Float[np.ndarray, " patients"]:
    """Structural components of one AUROC, summed over each patient's scans."""
    num_true, num_false = int(true.sum()), int((~true).sum())
    ranks = rankdata(score)
    within = np.empty(len(score))
    within[true], within[~true] = rankdata(score[true]), rankdata(score[~true])
    # share of the other class that a scan is rightly ordered against
    ordered = (ranks - within) / np.where(true, num_false, num_true)
    ordered[~true] = 1 - ordered[~true]
    area = ordered[true].mean()
    influence = np.zeros(num_patients)
    for rows, number in ((true, num_true), (~true, num_false)):
        clusters = len(np.unique(patient[rows]))
        part = np.bincount(patient[rows], ordered[rows] - area, num_patients) / number
        influence += part * np.sqrt(clusters / max(clusters - 1, 1))
    return influence


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
