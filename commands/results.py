"""What every cross-validation writes once all its folds are predicted, whatever the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from commands.run_folder import Cell, read_json, write_json, write_text
from commands.train_cells import learning_curves, say
from datamodules.splits import read_splits
from evaluation import pictures
from evaluation.intervals import bootstrap_intervals
from evaluation.metrics import summarise
from evaluation.predictions import ranking_table, write_table
from evaluation.report import write_report
from evaluation.uncertainty import bootstrap


def write_results(
    folder: Path,
    predictions: pd.DataFrame,
    protocol: str,
    wall_time_s: float,
    trained: Sequence[Cell] = (),
) -> dict[str, Any]:
    """Write predictions, ranking, metrics, pictures and report of a run.

    Args:
        folder: Folder of the run, which holds its run.json and splits.csv.
        predictions: Predictions of every tested scan and repeat.
        protocol: How validation patients were chosen.
        wall_time_s: Time that training and prediction took.
        trained: Cells that have learning curves; none for models without epochs.

    Returns:
        The metrics.
    """
    write_table(predictions, folder / "predictions.csv")
    ranking = ranking_table(predictions)
    write_table(ranking, folder / "ranking.csv")
    intervals = bootstrap_intervals(predictions, bootstrap(predictions))
    untested = set(read_splits(folder)["patient_id"]) - set(predictions["patient_id"])
    metrics = summarise(predictions) | {
        "num_untested_patients": len(untested),
        "protocol": protocol,
        "interval_95": intervals,
    }
    if trained:
        pictures.draw_learning_curves(learning_curves(trained), folder / "learning_curves.png")
    pictures.draw_roc(predictions, folder / "roc.png")
    pictures.draw_confusion(predictions, folder / "confusion.png")
    pictures.draw_accuracy_by_coverage(predictions, folder / "accuracy_by_coverage.png")
    num_cells = len(predictions[["repeat", "fold"]].drop_duplicates())
    run = read_json(folder / "run.json") | {"wall_time_s": wall_time_s, "num_cells": num_cells}
    write_json(run, folder / "run.json")
    write_text(write_report(metrics, ranking, run, has_curves=bool(trained)), folder / "report.md")
    write_json(metrics, folder / "metrics.json")
    mean, (low, high) = metrics["mean"], intervals["auroc"]
    say(
        f"AUROC {mean['auroc']:.3f} (95 % interval {low:.3f} to {high:.3f}), balanced accuracy "
        f"{mean['balanced_accuracy']:.3f}. Report: {folder / 'report.md'}"
    )
    return metrics
