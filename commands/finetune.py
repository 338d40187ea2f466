"""`finetune`: every test patient gets an out-of-fold prediction, split at patient level."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commands.runs.command_line import CommandLine
from commands.runs.main_process import is_main_process, say
from commands.training.cross_validation import gather_folds, open_folds, train_folds
from commands.training.side_by_side import run_side_by_side
from commands.training.train_cells import does, unfinished_folds
from commands.training.wandb_run import wandb_run


@dataclass(frozen=True)
class FinetuneOptions:
    """How the folds are trained.

    Args:
        workers: Processes on this machine that share the folds, with one thread each.
    """

    workers: int = 1


def finetune(args: list[str]) -> None:
    """Train and predict every fold that is not finished, then write the run's tables."""
    cli = CommandLine("finetune", args, options=FinetuneOptions)
    folder, folds = open_folds(cli)
    todo = unfinished_folds(cli, folds)
    is_shared = bool(todo) and cli.config.workers != 1
    if is_shared:
        _share_out(cli, folder, args)
        todo = []
    wanted = bool(todo) or is_shared or cli.config.only == "gather"
    with wandb_run(cli, folder, wanted=wanted) as tracker:
        train_folds(cli, folds, todo, tracker)
        if missing := [cell for cell in folds if not cell.finished]:
            say(f"{len(missing)} of {len(folds)} folds remain; the tables follow with the last.")
        elif does(cli, "gather") and is_main_process():
            metrics = gather_folds(cli, folder, folds)
            if tracker is not None:
                tracker.summary.update({f"cv/{name}": f for name, f in metrics["mean"].items()})


def _share_out(cli: CommandLine, folder: Path, args: Sequence[str]) -> None:
    """Let processes of one thread each train the folds, once the cache is filled."""
    if cli.config.num_tasks > 1:
        raise ValueError("Say either num_tasks or workers: both share out the folds.")
    cli.data.prepare_data()
    os.environ.setdefault("WANDB_RUN_GROUP", folder.name)
    parts = ["--workers=1", "--only=train", f"--num_tasks={cli.config.workers}"]
    places = range(cli.config.workers)
    run_side_by_side([["finetune", *args, *parts, f"--task={place}"] for place in places])
