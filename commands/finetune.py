"""`finetune`: every patient gets an out-of-fold prediction under patient-level cross-validation."""

from pathlib import Path
from typing import Any

import pandas as pd

from commands.command_line import CommandLine
from commands.run_folder import Cell, cell_folder, read_json, write_json, write_text
from commands.train_cells import (
    is_main_process,
    learning_curves,
    open_run,
    say,
    train_cells,
    unfinished_cells,
)
from commands.wandb_run import wandb_run
from evaluation import pictures
from evaluation.metrics import summarise
from evaluation.predictions import ranking_table, read_predictions, write_table
from evaluation.report import write_report
from evaluation.uncertainty import bootstrap, interval_95


def finetune(args: list[str]) -> None:
    """Train and predict every fold that is not finished, then write the run's tables."""
    cli = CommandLine("finetune", args)
    data = cli.data
    cells = data.cells()
    folder = open_run(cli)
    say(f"Classes {', '.join(data.class_names)}; {data.class_names[-1]!r} counts as positive.")
    if is_main_process():
        write_table(data.splits_table, folder / "splits.csv")
    folds = [Cell(repeat, fold, cell_folder(folder, repeat, fold)) for repeat, fold in cells]
    todo = unfinished_cells(cli, folds)
    with wandb_run(cli, folder, wanted=bool(todo)) as tracker:
        for cell, trainer, fold_data in train_cells(cli, todo, tracker):
            trainer.predict(
                datamodule=fold_data,
                ckpt_path=cell.best_ckpt,
                return_predictions=False,
                weights_only=True,
            )
        if missing := [cell for cell in folds if not cell.finished]:
            say(f"{len(missing)} of {len(folds)} folds remain; the tables follow with the last.")
        elif is_main_process():
            metrics = _gather(folder, folds, cli)
            if tracker is not None:
                tracker.summary.update({f"cv/{name}": f for name, f in metrics["mean"].items()})


def _gather(folder: Path, cells: list[Cell], cli: CommandLine) -> dict[str, Any]:
    """Write what can be said once every fold is finished, and return the metrics."""
    predictions = pd.concat(
        [read_predictions(cell.folder / "predictions.csv") for cell in cells], ignore_index=True
    )
    write_table(predictions, folder / "predictions.csv")
    ranking = ranking_table(predictions)
    write_table(ranking, folder / "ranking.csv")
    metrics = summarise(predictions) | {
        "protocol": cli.data.splits.protocol,
        "interval_95": {name: interval_95(draws) for name, draws in bootstrap(predictions).items()},
    }
    write_json(metrics, folder / "metrics.json")
    pictures.draw_learning_curves(learning_curves(cells), folder / "learning_curves.png")
    pictures.draw_roc(predictions, folder / "roc.png")
    pictures.draw_confusion(predictions, folder / "confusion.png")
    pictures.draw_accuracy_by_coverage(predictions, folder / "accuracy_by_coverage.png")
    times = [read_json(cell.folder / "finished.json")["wall_time_s"] for cell in cells]
    run = read_json(folder / "run.json") | {"wall_time_s": sum(times), "num_cells": len(cells)}
    write_json(run, folder / "run.json")
    write_text(write_report(metrics, ranking, run), folder / "report.md")
    mean, (low, high) = metrics["mean"], metrics["interval_95"]["auroc"]
    say(
        f"AUROC {mean['auroc']:.3f} (95 % interval {low:.3f} to {high:.3f}), balanced accuracy "
        f"{mean['balanced_accuracy']:.3f}. Report: {folder / 'report.md'}"
    )
    return metrics
