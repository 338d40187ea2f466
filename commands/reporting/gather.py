"""The tables of all folds, one below the other, and what is written from them."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.prepare import Run
from commands.runs.run_folder import FoldRun, read_json
from evaluation.predictions import read_predictions


def gather(fold_runs: Sequence[FoldRun], name: str) -> pd.DataFrame:
    """Read a table of each fold, one below the other."""
    tables = [read_predictions(fold_run.folder / name) for fold_run in fold_runs]
    return pd.concat(tables, ignore_index=True)


def write_report(run: Run) -> dict[str, Any]:
    """Write the tables, metrics and reports of a run whose folds are all finished."""
    folds = run.fold_runs
    has_validation = all((each.folder / "validation.csv").is_file() for each in folds)
    validation = gather(folds, "validation.csv") if has_validation else None
    facts = pd.DataFrame([read_json(each.folder / "finished.json") for each in folds])
    made: dict[str, Any] = {"wall_time_s": float(facts["wall_time_s"].sum())}
    if "device" in facts:  # not in those of old runs
        made["device"] = " and ".join(sorted(set(facts["device"].dropna())))
    predictions = gather(folds, "predictions.csv")
    metrics = write_results(run.folder, run.data.cohort, predictions, made, validation)
    write_page(run.folder)
    return metrics
