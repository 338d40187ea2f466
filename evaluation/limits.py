"""Limits of 95 % intervals from how far each patient moves a figure.

Every interval is Wilson's, with Student's t in the place of the normal quantile. Scans of one
patient and repeats of one scan are no further patients: an effective number of patients takes the
place of theirs. Balanced accuracy combines the intervals of the classes by Newcombe's method (1998;
"MOVER", Zou and Donner 2008). The AUROC has the effective number that DeLong's variance stands for,
and Satterthwaite's degrees of freedom, so that the class with few patients decides. A paired
difference has its variance and degrees of freedom from the same parts.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student_t

from evaluation.uncertainty import MEASURES, Part, Parts, influence_of, numbers_of, value_of

Limits = tuple[np.ndarray, np.ndarray]
BORROWED = 4.0  # a class's variance counts as many patients of all classes as if they were its own


def limits_of(parts: Parts) -> dict[str, Limits]:
    """Compute the interval of each measure from its parts (see the top of this file)."""
    return {
        name: _auroc_limits(found) if name == "auroc" else mover(found, lenders_of(parts, name))
        for name, found in parts.items()
    }


def difference_limits(first: Parts, second: Parts) -> dict[str, Limits]:
    """Compute the interval of each paired difference.

    The influence of a patient on a difference is the difference of the influences. Student's t is
    on the plain scale, cut at -1 and 1.
    """
    limits = {}
    for name in MEASURES:
        estimate = value_of(first[name]) - value_of(second[name])
        variance, degrees = difference_variance(first, second, name)
        reach = student_t.ppf(0.975, degrees) * np.sqrt(variance)
        limits[name] = (np.maximum(estimate - reach, -1.0), np.minimum(estimate + reach, 1.0))
    return limits


def difference_variance(first: Parts, second: Parts, name: str) -> Limits:
    """Compute the variance of a paired difference, and the degrees of freedom it is known with."""
    lenders = _differences(lenders_of(first, name), lenders_of(second, name))
    parts = _differences(first[name], second[name])
    variance, degrees = sampling_variance(parts, lenders)
    whole = 1.0 if name == "auroc" else len(parts)  # a sum of influences, or their mean
    return variance / whole**2, degrees


def lenders_of(parts: Parts, name: str) -> list[Part]:
    """All classes that have patients; a measure of one class (sensitivity) borrows from others."""
    one_class = name in ("sensitivity", "specificity") and len(parts[name]) == 1
    lenders = parts["balanced_accuracy"] if one_class else parts[name]
    return [part for part in lenders if part.num_patients] or lenders


def _differences(first: Sequence[Part], second: Sequence[Part]) -> list[Part]:
    return [
        Part(a.value - b.value, a.influence - b.influence, a.share, a.unit)
        for a, b in zip(first, second, strict=True)
    ]


def mover(parts: Sequence[Part], lenders: Sequence[Part]) -> Limits:
    """Combine Wilson's intervals of shares into that of their mean."""
    values = np.stack([part.value for part in parts], axis=-1)
    quantiles = student_t.ppf(0.975, degrees_of(numbers_of(parts)))
    low, high = _wilson(values, effective_numbers(parts, lenders), quantiles)
    influence = np.stack([part.influence for part in parts], axis=-2)
    together = influence @ np.swapaxes(influence, -1, -2)
    size = np.sqrt(np.diagonal(together, axis1=-2, axis2=-1))
    product = size[..., None] * size[..., None, :]
    correlation = np.divide(together, product, out=np.zeros_like(together), where=product > 0)
    np.einsum("...ii->...i", correlation)[...] = 1.0

    def reach(sides: np.ndarray) -> np.ndarray:
        square = np.einsum("...i,...ij,...j->...", sides, correlation, sides)
        return np.sqrt(np.maximum(square, 0.0)) / len(parts)

    mean = value_of(parts)
    return mean - reach(values - low), mean + reach(high - values)


def _auroc_limits(parts: Sequence[Part]) -> Limits:
    auroc, numbers = value_of(parts), numbers_of(parts)
    if numbers.min() < 2:
        unknown = np.full(auroc.shape, np.nan)
        return unknown, unknown
    each = 1 / effective_numbers(parts, parts)
    alone, joint = variance_apart(parts)
    overlap = np.divide(joint, alone, out=np.ones_like(alone), where=alone > 0)
    quantiles = student_t.ppf(0.975, satterthwaite(each, numbers, (numbers - 1).sum()))
    return _wilson(auroc, 1 / (each.sum(axis=-1) * overlap), quantiles)


def effective_numbers(
    parts: Sequence[Part], lenders: Sequence[Part]
) -> Float[np.ndarray, "trials parts"]:
    """Count the independent cases that would make each part as uncertain as it is.

    How the variance of patients compares with that of patients who have one scan and one repeat
    is measured, with BORROWED patients of all classes and one as if its scans and repeats agreed:
    few patients who happen to agree do not prove that all do. Shares of patients with one scan and
    one repeat keep their numbers exactly.

    Args:
        parts: The parts of a figure.
        lenders: The parts of all classes.
    """
    spreads, whole, inner, agreeing = _dispersion(parts)
    lent = _dispersion(lenders)
    pooled = (lent[0].sum(-1) + (lent[3] * lent[2]).mean(-1)) / (lent[1].sum(-1) + lent[2].mean(-1))
    added = BORROWED * pooled[..., None] + agreeing
    effect = (spreads + added * inner) / (whole + (BORROWED + 1) * inner)
    return numbers_of(parts) / effect / [part.unit for part in parts]


def _dispersion(parts: Sequence[Part]) -> tuple[np.ndarray, ...]:
    """Spreads in units; what is expected of all patients and of one; how a patient's scans add."""
    numbers, units = numbers_of(parts), np.array([part.unit for part in parts])
    values = np.stack([part.value for part in parts], axis=-1)
    cases = numbers / units
    inner = (values * cases + 0.5) / (cases + 1)  # never 0 or 1
    return (
        np.stack([part.spread for part in parts], axis=-1) / units,
        numbers * values * (1 - values),
        inner * (1 - inner),
        numbers * np.array([np.square(part.share).sum() for part in parts]),
    )


def _wilson(share: np.ndarray, number: np.ndarray, quantile: np.ndarray) -> Limits:
    loss = np.square(quantile) / number
    middle = (share + loss / 2) / (1 + loss)
    half = np.sqrt(loss * share * (1 - share) + np.square(loss) / 4) / (1 + loss)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def sampling_variance(
    parts: Sequence[Part], lenders: Sequence[Part]
) -> tuple[Float[np.ndarray, "trials"], Float[np.ndarray, "trials"]]:
    """Compute the variance of a sum of parts, and the degrees of freedom it is known with.

    The deviations of five patients say little about their variance, so that of all classes counts
    as BORROWED further patients; the degrees of freedom are Satterthwaite's, so that the class
    with the largest part decides them. Classes that share patients (one label per scan) also add
    their covariance.

    Args:
        parts: The parts, with influences that add up.
        lenders: The parts of all classes.

    Returns:
        Variance and degrees of freedom; NaN where a part has fewer than two patients.
    """
    numbers = numbers_of(parts)
    spreads = np.stack([part.spread for part in parts], axis=-1)
    if numbers.min() < 2:
        unknown = np.full(spreads.shape[:-1], np.nan)
        return unknown, unknown
    everyone = (numbers_of(lenders) - 1).sum()
    pooled = np.sum([part.spread / part.unit for part in lenders], axis=0) / everyone
    lent = BORROWED * pooled[..., None] * [part.unit for part in parts]
    each = (spreads + lent) / (numbers - 1 + BORROWED) / numbers
    alone, joint = variance_apart(parts)
    variance = np.maximum(each.sum(axis=-1) + joint - alone, 0.0)
    return variance, satterthwaite(each, numbers, everyone)


def variance_apart(
    parts: Sequence[Part],
) -> tuple[Float[np.ndarray, "trials"], Float[np.ndarray, "trials"]]:
    """Square the influences before and after adding up the parts; they differ in covariances."""
    alone = np.sum([np.square(part.influence).sum(axis=-1) for part in parts], axis=0)
    return alone, np.square(influence_of(parts)).sum(axis=-1)


def degrees_of(numbers: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " parts"]:
    """Degrees of freedom of a variance from so many patients, BORROWED ones added; up to inf."""
    with np.errstate(divide="ignore"):
        return (numbers - 1 + BORROWED) ** 2 / (numbers - 1)


def satterthwaite(
    variances: Float[np.ndarray, "trials parts"],
    numbers: Float[np.ndarray, " parts"],
    most: float,
) -> Float[np.ndarray, "trials"]:
    """Degrees of freedom of a sum of variances from so many patients each; at most `most`."""
    noise = (np.square(variances) / degrees_of(numbers)).sum(axis=-1)
    total = np.square(variances.sum(axis=-1))
    found = np.divide(total, noise, out=np.full_like(total, most), where=noise > 0)
    return np.minimum(found, most)
