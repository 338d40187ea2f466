"""What is written from the tables of all folds."""

from typing import Any

import pandas as pd

from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.fold_tables import out_of_fold_predictions, validation_predictions
from commands.runs.prepare import Run
from commands.runs.run_folder import read_json


def write_report(run: Run) -> dict[str, Any]:
    """Write the tables, metrics and reports of a run whose folds are all finished."""
    folds = run.fold_runs
    facts = pd.DataFrame([read_json(each.folder / "finished.json") for each in folds])
    made: dict[str, Any] = {"wall_time_s": float(facts["wall_time_s"].sum())}
    if "device" in facts:  # not in those of old runs
        made["device"] = " and ".join(sorted(set(facts["device"].dropna())))
    tables = out_of_fold_predictions(folds), validation_predictions(folds)
    metrics = write_results(run.folder, run.data.cohort, made, *tables)
    write_page(run.folder)
    return metrics
