"""`finetune`: every test patient gets an out-of-fold prediction, split at patient level."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from callbacks.progress import RunProgress
from commands.bundles.training_reference import training_reference
from commands.reporting.gather import write_report
from commands.runs.fold_tables import out_of_fold_predictions
from commands.runs.main_process import is_main_process, say
from commands.runs.prepare import Run, claimed, prepare, unfinished
from commands.runs.resume import resume_point
from commands.runs.run_folder import FoldRun, device_name, keep_splits, write_json
from commands.runs.side_by_side import run_side_by_side
from commands.runs.wandb_run import wandb_run
from datamodules.scans import ScanDataModule
from evaluation.summary import running_figures


@dataclass(frozen=True)
class FinetuneOptions:
    """How the folds are trained.

    Args:
        workers: Processes on this machine that share the folds, with one thread each.
    """

    workers: int = 1


def finetune(args: list[str]) -> None:
    """Train and predict every fold that is not finished, then write the run's tables."""
    run = prepare("finetune", args, FinetuneOptions)
    todo = unfinished(run.config, run.fold_runs)
    with claimed(run):
        run.describe()
        _describe_folds(run)
        if is_shared := bool(todo) and run.config.workers != 1:
            _share_out(run, args)
        with wandb_run(run, wanted=bool(todo) or run.config.only == "gather") as tracker:
            if not is_shared:
                _train(run, todo, tracker)
            if missing := [each for each in run.fold_runs if not each.finished]:
                num_folds = len(run.fold_runs)
                say(f"{len(missing)} of {num_folds} folds remain; the last one writes the tables.")
            elif run.does("gather") and is_main_process():
                say("Writing the report…")
                metrics = write_report(run)
                if tracker is not None:
                    tracker.summary.update({f"cv/{name}": f for name, f in metrics["mean"].items()})


def _train(run: Run, todo: Sequence[FoldRun], tracker: Any) -> None:
    """Train fold runs one after the other."""
    progress = RunProgress(len(todo), shown=is_main_process())
    with progress.bar:
        for fold_run in todo:
            with fold_run.alone():
                _train_fold(run, fold_run, progress, tracker)
            if tracker is not None:
                done = [each for each in run.fold_runs if each.finished]
                figures = running_figures(out_of_fold_predictions(done))
                tracker.log({"folds": len(done)} | {f"cv/{name}": f for name, f in figures.items()})


def _train_fold(run: Run, fold_run: FoldRun, progress: RunProgress, tracker: Any) -> None:
    """Build, fit, predict and finish one fold run."""
    started = time.monotonic()
    progress.begin(fold_run.name)
    trainer, model, data = run.build(fold_run, [progress], tracker)
    resume_ckpt = resume_point(fold_run.folder, say, tidy=is_main_process())
    trainer.fit(model, datamodule=data, ckpt_path=resume_ckpt, weights_only=True)
    trainer.predict(  # callbacks write predictions.csv
        model,
        datamodule=data,
        ckpt_path=fold_run.best_ckpt,
        return_predictions=False,
        weights_only=True,
    )
    if trainer.is_global_zero:
        if isinstance(data, ScanDataModule):
            reference = training_reference(model, data, trainer.strategy.root_device)
            write_json(asdict(reference), fold_run.folder / "reference.json")
        seconds = time.monotonic() - started
        fold_run.finish({"wall_time_s": seconds, "device": device_name()})
    trainer.strategy.barrier()
    progress.end()


def _describe_folds(run: Run) -> None:
    names = run.data.class_names
    positive = f"; {names[-1]!r} counts as positive" if len(names) == 2 else ""
    say(f"Classes {', '.join(names)}{positive}." if names else run.data.truth.words)
    for line in run.data.split_warnings():
        say(line)
    if is_main_process():
        keep_splits(run.data.splits_table, run.folder)


def _share_out(run: Run, args: Sequence[str]) -> None:
    """Let processes of one thread each train the folds, once the cache is filled."""
    if run.config.num_tasks > 1:
        raise ValueError("Set either num_tasks or workers: both share out the folds.")
    run.data.fill_cache()
    os.environ.setdefault("WANDB_RUN_GROUP", run.folder.name)
    parts = ["--workers=1", "--only=train", f"--num_tasks={run.config.workers}"]
    places = range(run.config.workers)
    run_side_by_side([["finetune", *args, *parts, f"--task={place}"] for place in places])
