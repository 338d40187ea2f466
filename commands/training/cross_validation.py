"""Train and predict the folds of a run, and write its tables once all are finished."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from lightning import Callback

from commands.bundles.ensemble import training_reference
from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.command_line import CommandLine
from commands.runs.main_process import is_main_process, say
from commands.runs.run_folder import FoldRun, fold_folder, keep_splits, read_json, write_json
from commands.training.train_cells import open_run, train_cells
from datamodules.scans import ScanDataModule
from evaluation.metrics import running_mean
from evaluation.predictions import read_predictions


def open_folds(cli: CommandLine) -> tuple[Path, list[FoldRun]]:
    """Claim the run's folder, write its splits, and list all its folds."""
    data = cli.data
    cells = data.fold_runs()
    folder = open_run(cli)
    names = data.class_names
    positive = f"; {names[-1]!r} counts as positive" if len(names) == 2 else ""
    say(f"Classes {', '.join(names)}{positive}.")
    for line in data.split_warnings():
        say(line)
    if is_main_process():
        keep_splits(data.splits_table, folder)
    return folder, [
        FoldRun(repeat, fold, fold_folder(folder, repeat, fold)) for repeat, fold in cells
    ]


def train_folds(
    cli: CommandLine,
    folds: Sequence[FoldRun],
    todo: Sequence[FoldRun],
    tracker: Any = None,
    callbacks: Sequence[Callback] = (),
    *,
    quiet: bool = False,
) -> None:
    """Train and predict some folds of a run.

    Args:
        cli: The parsed command line.
        folds: All folds of the run.
        todo: Those to train now.
        tracker: W&B run that logs them, or None.
        callbacks: What watches the trainings beside the configured callbacks.
        quiet: Whether to show no progress bar.
    """
    fitted = train_cells(cli, todo, tracker, callbacks, quiet=quiet)
    for cell, trainer, fold_data in fitted:
        trainer.predict(
            datamodule=fold_data,
            ckpt_path=cell.best_ckpt,
            return_predictions=False,
            weights_only=True,
        )
        if trainer.is_global_zero and isinstance(fold_data, ScanDataModule):
            device = trainer.strategy.root_device
            reference = training_reference(trainer.lightning_module, fold_data, device)
            write_json(asdict(reference), cell.folder / "reference.json")
        if tracker is not None:
            done = [fold for fold in folds if fold.finished or fold == cell]
            figures = running_mean(gather(done, "predictions.csv"))
            tracker.log({"folds": len(done)} | {f"cv/{name}": f for name, f in figures.items()})


def gather_folds(cli: CommandLine, folder: Path, folds: Sequence[FoldRun]) -> dict[str, Any]:
    """Write the tables, metrics and reports of a run whose folds are all finished."""
    predictions = gather(folds, "predictions.csv")
    has_validation = all((cell.folder / "validation.csv").is_file() for cell in folds)
    validation = gather(folds, "validation.csv") if has_validation else None
    facts = pd.DataFrame([read_json(cell.folder / "finished.json") for cell in folds])
    made: dict[str, Any] = {"wall_time_s": float(facts["wall_time_s"].sum())}
    if "device" in facts:  # not in those of old runs
        made["device"] = " and ".join(sorted(set(facts["device"].dropna())))
    metrics = write_results(folder, cli.data.cohort, predictions, made, validation)
    write_page(folder)
    return metrics


def gather(cells: Sequence[FoldRun], name: str) -> pd.DataFrame:
    """Read a table of each fold, one below the other."""
    tables = [read_predictions(cell.folder / name) for cell in cells]
    return pd.concat(tables, ignore_index=True)
