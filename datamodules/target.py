"""The number that a regression predicts: its cells, its scale in a fold, its quantiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.checks.spelling import number_of

MOST_STRATA = 5


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of the target over the training scans of a fold."""

    mean: float
    sd: float

    @classmethod
    def of(cls, state: Mapping[str, float] | None) -> "TargetScale | None":
        """Take it from a checkpoint or bundle; None where classes are predicted."""
        return cls(**state) if state else None

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Subtract the mean and divide, in float32."""
        return ((values - self.mean) / self.sd).astype(np.float32)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Turn outputs of a network into numbers in the unit of the target."""
        return values.astype(np.float64) * self.sd + self.mean


def target_values(cells: Sequence[str]) -> np.ndarray:
    """Read the cells of the target column, which must be numbers, (N,).

    Raises:
        ValueError: If one is none.
    """
    numbers = [number_of(cell) for cell in cells]
    for cell, number in zip(cells, numbers, strict=True):
        if number is None:
            raise ValueError(f"The target {cell!r} is no number: write one, or drop the row.")
    return np.array(numbers, dtype=np.float64)


def fit_target(values: np.ndarray) -> TargetScale:
    """Fit the scale on the targets of a fold's training scans.

    Raises:
        ValueError: If all are the same.
    """
    sd = float(values.std())
    if not sd > 0:
        raise ValueError(
            f"All training scans of a fold have the target {values[0]:g}: there is nothing to "
            "learn. Lower num_folds or add patients."
        )
    return TargetScale(float(values.mean()), sd)


def target_strata(values: np.ndarray, patients: Sequence[str], num_folds: int) -> list[str]:
    """Name the quantile of each scan's target, so that folds are even in small and large ones.

    There are up to MOST_STRATA quantiles: as many as leave one patient for each fold in every one.

    Args:
        values: Target of each scan, (N,).
        patients: Patient of each scan, (N,).
        num_folds: Folds to divide the patients into.

    Raises:
        ValueError: If there are fewer patients than folds.
    """
    if (num_patients := len(set(patients))) < num_folds:
        raise ValueError(
            f"There are {num_patients} patients with a target, too few for {num_folds} folds. "
            "Lower num_folds or add patients."
        )
    for number in range(MOST_STRATA, 1, -1):
        edges = np.unique(np.quantile(values, np.arange(1, number) / number))
        stratum = np.searchsorted(edges, values, side="right")
        members = [
            {patients[row] for row in np.flatnonzero(stratum == k).tolist()} for k in set(stratum)
        ]
        if len(members) > 1 and min(map(len, members)) >= num_folds:
            return [f"quantile {k}" for k in stratum]
    return ["any"] * len(values)
