"""What is predicted of each scan: its class, or the number in the column `target`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from datamodules.checks.cohort_problems import Expectations, class_names
from datamodules.cohort import Cohort
from datamodules.splits import Splits
from datamodules.target import TargetScale, fit_target, target_strata


@dataclass(frozen=True)
class Classes:
    """The classes of a cohort.

    Args:
        cohort: The scans.
        order: Wanted order of the classes; None sorts them by name.
        labels_per: Whether a patient's scans share their label.
    """

    cohort: Cohort
    order: Sequence[str] | None = None
    labels_per: Literal["patient", "scan"] = "patient"

    @cached_property
    def names(self) -> list[str]:
        """Names in the order of the model's outputs; of two the last is positive."""
        return class_names(self.cohort.scans, self.order, self.labels_per)

    @property
    def num_outputs(self) -> int:
        """Outputs of a model."""
        return len(self.names)

    @property
    def expectations(self) -> Expectations:
        """What the cohort's check has to look at."""
        return Expectations(labelled=True, labels_per=self.labels_per, classes=self.order)

    def strata(self, splits: Splits) -> list[str]:
        """What folds are even in: the class of each scan, (N,)."""
        return self.cohort.labels

    @property
    def parts_need(self) -> list[str]:
        """What every part of a division should have: the class of each scan, (N,)."""
        return self.cohort.labels

    def fit(self, rows: np.ndarray) -> tuple[TargetScale | None, np.ndarray]:
        """Give the class index of each scan, (N,), which has no scale."""
        return None, np.array([self.names.index(label) for label in self.cohort.labels])

    def state(self, scale: TargetScale | None) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {"classes": self.names}

    def restore(self, state: Mapping[str, Any]) -> TargetScale | None:
        """Compare with what a checkpoint keeps.

        Raises:
            ValueError: If it was trained for something else.
        """
        if "target_scale" in state:
            raise ValueError("The checkpoint predicts a number: set --data.task=regression.")
        if state["classes"] != self.names:
            raise ValueError(
                f"The checkpoint was trained for the classes {state['classes']}, not "
                f"{self.names}. Set --data.classes, or use a table with these labels."
            )
        return None


@dataclass(frozen=True)
class Target:
    """The number that a regression predicts; a model has one output, in standard deviations.

    Args:
        cohort: The scans.
        labels_per: Whether a patient's scans share their target.
    """

    cohort: Cohort
    labels_per: Literal["patient", "scan"] = "patient"
    names: Sequence[str] = ()
    num_outputs: int = 1

    @property
    def words(self) -> str:
        """What is predicted, in one line."""
        values, name = self.cohort.targets, self.cohort.columns.target
        return (
            f"Regression: the number in the column {name!r}, {values.min():g} to "
            f"{values.max():g}, mean {values.mean():.4g}, sd {values.std():.4g}."
        )

    @property
    def expectations(self) -> Expectations:
        """What the cohort's check has to look at."""
        return Expectations(labelled=True, labels_per=self.labels_per, task="regression")

    def strata(self, splits: Splits) -> list[str]:
        """What folds are even in: the quantile of each scan's target, (N,)."""
        if splits.scheme == "leave-one-site-out":  # sites may differ in the target
            return self.parts_need
        num_folds = splits.num_folds if splits.scheme == "k-fold" else 2
        return target_strata(self.cohort.targets, self.cohort.patients, num_folds)

    @property
    def parts_need(self) -> list[str]:
        """What every part of a division should have: anybody, (N,)."""
        return ["any"] * len(self.cohort.scans)

    def fit(self, rows: np.ndarray) -> tuple[TargetScale | None, np.ndarray]:
        """Fit the scale on training scans alone; give it and every standardised target, (N,)."""
        values = self.cohort.targets
        scale = fit_target(values[rows])
        return scale, scale.standardise(values)

    def state(self, scale: TargetScale | None) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        assert scale is not None
        return {"classes": [], "target_scale": asdict(scale)}

    def restore(self, state: Mapping[str, Any]) -> TargetScale:
        """Take the scale that a checkpoint keeps.

        Raises:
            ValueError: If it was trained for classes.
        """
        if "target_scale" not in state:
            raise ValueError("The checkpoint predicts classes: drop --data.task=regression.")
        return TargetScale(**state["target_scale"])


def truth_of(
    cohort: Cohort,
    classes: Sequence[str] | None,
    labels_per: Literal["patient", "scan"],
    sampling: str,
) -> Classes | Target:
    """Choose by the cohort's task; the arguments are those of `ScanDataModule`.

    Raises:
        ValueError: If a setting is for classes, but a number is predicted.
    """
    if cohort.task == "classification":
        return Classes(cohort, classes, labels_per)
    if classes or sampling == "balanced":
        raise ValueError(
            "A regression has no classes: drop --data.classes and --data.sampling=balanced."
        )
    return Target(cohort, labels_per)
