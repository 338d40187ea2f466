"""How far each patient moves a figure, which is how sure the figure is.

The unit is the patient: two scans or ten repeats of one patient are not independent cases. Every
figure is a mean over classes, and every class is a sample of its own: the variance is the sum of
the classes' parts, and a class of five patients decides how well that sum is known. What this
leaves out is the luck of folds and first weights, which the spread over repeats shows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.stats import rankdata

from evaluation.predictions import class_names_of, probs_of

MEASURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc")
Parts = dict[str, list["Part"]]
OF_AN_AUROC = 1 / 3  # variance of a component where the AUROC is a half, over a quarter


@dataclass(frozen=True)
class Repeat:
    """Rows of one repeat; the first axis of the outputs is for trials of one design, else 1 long.

    Args:
        num_patients: Patients of all repeats.
        patient: Index of each row's patient, (N,).
        true: True class of each row, (N,).
        predicted: Predicted class of each row, (T, N).
        probs: Outputs, (T, N, K).
    """

    num_patients: int
    patient: Int[np.ndarray, " rows"]
    true: Int[np.ndarray, " rows"]
    predicted: Int[np.ndarray, "trials rows"]
    probs: Float[np.ndarray, "trials rows classes"]


@dataclass(frozen=True)
class Part:
    """A mean over the scans of one class (or of everyone).

    Args:
        value: The mean, (T,); NaN without scans.
        influence: How far each patient moves it, (T, P).
        share: Share of the scans that each patient has, (P,).
        unit: Variance that a patient with one scan and one repeat has, over value · (1 - value).
    """

    value: Float[np.ndarray, "trials"]
    influence: Float[np.ndarray, "trials patients"]
    share: Float[np.ndarray, " patients"]
    unit: float = 1.0

    @property
    def num_patients(self) -> int:
        """Patients with a scan in it."""
        return int((self.share > 0).sum())

    @property
    def spread(self) -> Float[np.ndarray, "trials"]:
        """Sum over patients of the squared deviation of a patient from the mean."""
        return np.square(self.num_patients * self.influence).sum(axis=-1)


def parts_of(repeats: Sequence[Repeat]) -> Parts:
    """Take each of MEASURES apart, averaged over the repeats.

    Returns:
        By measure the parts of which it is the mean; of `auroc`, whose parts all have the AUROC as
        value, the components of DeLong, DeLong and Clarke-Pearson (1988) by class, summed over the
        scans of a patient (Obuchowski 1997), of which the influence is the sum. With more than two
        classes the figures of each against the rest are averaged.
    """
    each = [_parts_of(repeat) for repeat in repeats]
    return {
        name: [_mean(parts) for parts in zip(*(parts[name] for parts in each), strict=True)]
        for name in MEASURES
    }


def value_of(parts: Sequence[Part]) -> Float[np.ndarray, "trials"]:
    """Compute the figure that has these parts."""
    return np.mean([part.value for part in parts], axis=0)


def influence_of(parts: Sequence[Part]) -> Float[np.ndarray, "trials patients"]:
    """Add up how far each patient moves the parts."""
    return np.sum([part.influence for part in parts], axis=0)


def estimates(predictions: pd.DataFrame) -> dict[str, float]:
    """Compute the mean over repeats of each of MEASURES."""
    return {
        name: value_of(parts).item() for name, parts in parts_of(repeats_of(predictions)).items()
    }


def auroc_influence(predictions: pd.DataFrame) -> Float[np.ndarray, "repeats patients"]:
    """How far each patient moves the AUROC of each repeat; squares add up to DeLong's variance.

    Args:
        predictions: A predictions table.

    Returns:
        One row per repeat, patients in the order of their sorted ids.
    """
    return np.array(
        [influence_of(parts_of([repeat])["auroc"])[0] for repeat in repeats_of(predictions)]
    )


def indicator(member: Int[np.ndarray, " rows"], number: int) -> csr_array:
    """Mark each row's patient (or whatever it belongs to): (rows, number), to sum by."""
    everyone = np.arange(len(member))
    return csr_array((np.ones(len(member)), (everyone, member)), shape=(len(member), number))


def numbers_of(parts: Sequence[Part]) -> Float[np.ndarray, " parts"]:
    """Count the patients of each part."""
    return np.array([part.num_patients for part in parts], dtype=float)


def repeats_of(predictions: pd.DataFrame) -> list[Repeat]:
    """Read a predictions table; patients are in the order of their sorted ids."""
    return list(_repeats(predictions))


def _repeats(predictions: pd.DataFrame) -> Iterator[Repeat]:
    names = class_names_of(predictions)
    patients = sorted(predictions["patient_id"].unique())
    for _, rows in predictions.groupby("repeat"):
        yield Repeat(
            num_patients=len(patients),
            patient=pd.Categorical(rows["patient_id"], patients).codes.astype(int),
            true=pd.Categorical(rows["label"], names).codes.astype(int),
            predicted=pd.Categorical(rows["predicted"], names).codes.astype(int)[None],
            probs=probs_of(rows)[None],
        )


def _parts_of(rows: Repeat) -> Parts:
    num_classes = rows.probs.shape[-1]
    belongs = indicator(rows.patient, rows.num_patients)
    right = rows.predicted == rows.true
    everyone = np.ones(len(rows.true), dtype=bool)
    recall = [share_part(right, rows.true == k, belongs) for k in range(num_classes)]
    if num_classes == 2:
        sensitivity, specificity = recall[1:], recall[:1]
    else:
        sensitivity = recall
        specificity = [
            share_part(rows.predicted != k, rows.true != k, belongs) for k in range(num_classes)
        ]
    return {
        "accuracy": [share_part(right, everyone, belongs)],
        "balanced_accuracy": recall,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "auroc": _auroc_parts(rows, belongs),
    }


def share_part(
    hits: Bool[np.ndarray, "trials rows"],
    cases: Bool[np.ndarray, " rows"],
    belongs: csr_array,
) -> Part:
    """Measure the share of hits among cases.

    Args:
        hits: Whether each row counts, (T, N).
        cases: Whether each row is asked, (N,).
        belongs: What `indicator` returns for the patients.
    """
    number = int(cases.sum())
    hits = hits[..., cases].astype(float)
    if not number:
        nobody = np.zeros((len(hits), belongs.shape[1]))
        return Part(np.full(len(hits), np.nan), nobody, nobody[0])
    value = hits.mean(axis=-1)
    influence = (hits - value[..., None]) @ belongs[cases] / number
    return Part(value, influence, belongs[cases].sum(axis=0) / number)


def _auroc_parts(rows: Repeat, belongs: csr_array) -> list[Part]:
    num_classes = rows.probs.shape[-1]
    headline = range(num_classes) if num_classes > 2 else range(1, 2)
    areas, influences, units = [], [], np.zeros(num_classes)
    for k in headline:
        area, components = _components(rows.probs[..., k], rows.true == k)
        weights = np.zeros(len(rows.true))
        for side in (rows.true == k, rows.true != k):
            clusters = (belongs[side].sum(axis=0) > 0).sum()
            weights[side] = np.sqrt(clusters / max(clusters - 1, 1)) / max(side.sum(), 1)
            members = np.bincount(rows.true[side], minlength=num_classes)
            units += OF_AN_AUROC * np.square(members / max(side.sum(), 1) / len(headline))
        areas.append(area)
        influences.append(components * weights)
    value, influence = np.mean(areas, axis=0), np.mean(influences, axis=0)
    parts = []
    for k in range(num_classes):
        own = rows.true == k
        share = belongs[own].sum(axis=0) / max(own.sum(), 1)
        moved = influence[..., own] @ belongs[own]
        moved -= moved.sum(axis=-1, keepdims=True) * share  # a class is a sample of its own
        parts.append(Part(value, moved, share, float(units[k])))
    return parts


def _components(
    score: Float[np.ndarray, "trials rows"], true: Bool[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "trials"], Float[np.ndarray, "trials rows"]]:
    """AUROC, and by how much each scan is ordered better than that against the other class."""
    num_true, num_false = int(true.sum()), int((~true).sum())
    if not num_true or not num_false:
        return np.full(score.shape[:-1], np.nan), np.full(score.shape, np.nan)
    within = np.empty(score.shape)
    for side in (true, ~true):
        within[..., side] = rankdata(score[..., side], axis=-1)
    ordered = (rankdata(score, axis=-1) - within) / np.where(true, num_false, num_true)
    ordered[..., ~true] = 1 - ordered[..., ~true]
    area = ordered[..., true].mean(axis=-1)
    return area, ordered - area[..., None]


def _mean(parts: Sequence[Part]) -> Part:
    return Part(
        np.mean([part.value for part in parts], axis=0),
        np.mean([part.influence for part in parts], axis=0),
        np.mean([part.share for part in parts], axis=0),
        float(np.mean([part.unit for part in parts])),
    )
