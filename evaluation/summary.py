"""Every figure of a run, from its tables alone: the content of metrics.json."""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from evaluation.calibration import FoldRunTables, calibrate, calibration_summary, held_out
from evaluation.confidence import confidence_summary, suspected_labels
from evaluation.conformal import conformal_summary
from evaluation.intervals import (
    closed_intervals,
    dummy_auroc,
    headline_intervals,
    what_can_be_shown,
)
from evaluation.metrics import running_mean, summarise
from evaluation.predictions import as_cases, scans_are_cases
from evaluation.regression import is_regression, running_measures
from evaluation.regression_summary import summarise_regression
from evaluation.subgroups import subgroup_rows
from evaluation.uncertainty import estimates

FOLD_RUN = ["repeat", "fold"]


@dataclass(frozen=True)
class RunTables:
    """What a finished run has written.

    Args:
        predictions: Out-of-fold predictions of the tested scans.
        validation: The same for the validation part of each fold; None where there is none.
        splits: Part of every patient in every fold.
        cohort: One row per scan: patient_id, image, label, file_hash, and what describes the
            patients (site, sex, age, …).
        curves: Learning curves (columns fold_run, epoch, val/accuracy, …); None without training.
    """

    predictions: pd.DataFrame
    validation: pd.DataFrame | None
    splits: pd.DataFrame
    cohort: pd.DataFrame
    curves: pd.DataFrame | None = None

    @property
    def cases(self) -> pd.DataFrame:
        """One out-of-fold prediction per case and repeat."""
        return as_cases(self.predictions)

    @property
    def held_out(self) -> FoldRunTables:
        """For each fold the cases that it may be calibrated on; none without other folds."""
        return held_out(self.predictions, self.validation)

    @property
    def protocol(self) -> Literal["nested", "paper"]:
        """Answer 'paper' if epochs were judged by test patients, for want of others."""
        judged = self.curves is not None and any(self.curves.columns.str.startswith("val/"))
        has_val = self.splits["part"].eq("val").groupby([self.splits[k] for k in FOLD_RUN]).any()
        return "paper" if judged and not has_val.all() else "nested"


def summarise_run(run: RunTables) -> dict[str, Any]:
    """Compute every figure of a run.

    Args:
        run: Its tables.

    Returns:
        The content of metrics.json.
    """
    if is_regression(run.predictions):
        figures = summarise_regression(run.predictions, run.splits, run.cohort)
        return figures | {"protocol": run.protocol, "optimism": None}
    predictions = run.cases
    held = run.held_out
    untested = set(run.splits["patient_id"]) - set(predictions["patient_id"])
    described = run.cohort.drop(columns=["label", "file_hash"])
    one_each = not scans_are_cases(run.predictions)
    cohort = run.cohort.drop_duplicates("patient_id") if one_each else run.cohort
    return summarise(run.predictions) | {
        "num_untested_patients": len(untested),
        "protocol": run.protocol,
        "optimism": optimism(run.curves) if run.protocol == "paper" else None,
        "interval_95": headline_intervals(predictions),
        "closed_interval_95": closed_intervals(predictions),
        "sample": what_can_be_shown(predictions),
        "dummy_auroc": dummy_auroc(predictions, run.splits, cohort),
        "confidence": confidence_summary(predictions),
        "num_suspected_labels": int(suspected_labels(predictions)["suspected"].sum()),
        "calibration": {
            "as_trained": _calibration(predictions),
            "calibrated": _calibration(calibrate(predictions, held)) if held else None,
            "on": None if not held else "other folds" if run.validation is None else "validation",
        },
        "conformal": conformal_summary(predictions, held) if held else None,
        "subgroups": subgroup_rows(run.predictions, described).to_dict("records"),
    }


def running_figures(predictions: pd.DataFrame) -> dict[str, float]:
    """Measure a cross-validation of which only some folds are predicted, of either kind."""
    return (running_measures if is_regression(predictions) else running_mean)(predictions)


def _calibration(predictions: pd.DataFrame) -> dict[str, Any]:
    return calibration_summary(predictions) | {"auroc": estimates(predictions)["auroc"]}


def optimism(curves: pd.DataFrame | None) -> float | None:
    """Measure what the choice of the epoch by the test patients added to the accuracy.

    Args:
        curves: Learning curves of a run with protocol 'paper', whose val/accuracy is that of the
            test patients.

    Returns:
        Mean over folds of the accuracy at the chosen epoch less that at the last, which nobody
        chose; None without curves.
    """
    if curves is None or "val/accuracy" not in curves:
        return None
    accuracy = curves.dropna(subset=["val/accuracy"]).sort_values("epoch")
    by_fold = accuracy.groupby("fold_run")["val/accuracy"]
    return float((by_fold.max() - by_fold.last()).mean())
