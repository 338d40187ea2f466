"""Train the folds of a run one after another; pretraining and fine-tuning share this loop."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from typing_extensions import override

from callbacks.progress import RunProgress
from commands.runs.command_line import CommandLine
from commands.runs.main_process import is_main_process, say
from commands.runs.resume import resume_point
from commands.runs.run_folder import FoldRun, claim, device_name, init_checkpoint, run_path
from commands.training.init_match import init_match
from files.whole_file import remove_leftovers

NOT_SETTINGS = ("config", "run", "fold", "repeat", "only", "num_tasks", "task", "workers", "wandb")


def does(cli: CommandLine, step: str) -> bool:
    """Whether the command line asks for this step of a run: prepare, train or gather."""
    return cli.config.only in (None, step)


def open_run(cli: CommandLine) -> Path:
    """Claim the run's folder for this configuration and say what will be done."""
    folder, cohort = run_path(cli.config.run), cli.data.cohort
    if is_main_process():
        remove_leftovers(folder)
        facts = {
            "seed": cli.config.seed_everything,
            "init": cli.config.init,
            "data_hash": cohort.content_hash(),
            "preprocessing": cli.plan,
        }
        claim(folder, resolved_config(cli), facts)
    num_patients = len(set(cohort.patients))
    if warnings := cli.check.warnings_in_brief():
        say(warnings)
    say(f"Run {folder}: {len(cohort.scans)} scans of {num_patients} patients. {cli.plan}")
    for line in init_match(cli):
        say(line)
    if cli.config.only == "prepare":  # else each training does it
        cli.data.prepare_data()
    if is_main_process() and cli.config.only != "gather" and (clipped := cohort.much_clipped()):
        say(clipped)
    return folder


def resolved_config(cli: CommandLine) -> dict[str, Any]:
    """Return the configuration with everything filled in, as plain values."""
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_unset=False, format="yaml"))
    return {key: value for key, value in config.items() if key not in NOT_SETTINGS}


def unfinished_folds(cli: CommandLine, cells: Sequence[FoldRun]) -> list[FoldRun]:
    """Choose the cells that the command line asks for and that are not finished yet.

    Raises:
        ValueError: If it asks for a repeat, fold or task that does not exist, or wants to gather
            what is not finished.
    """
    repeat, fold = cli.config.repeat, cli.config.fold
    wanted = [cell for cell in cells if repeat in (None, cell.repeat) and fold in (None, cell.fold)]
    if not wanted:
        last = cells[-1]
        raise ValueError(
            f"There is no REPEAT={repeat} FOLD={fold}: repeats are 0 to {last.repeat}, "
            f"folds 0 to {last.fold}."
        )
    task, num_tasks = cli.config.task, cli.config.num_tasks
    if not 0 <= task < num_tasks:
        raise ValueError(f"There is no task {task} of {num_tasks}: they count from 0.")
    if cli.config.only == "gather":
        _refuse_unfinished(cells)
    share = wanted[task::num_tasks]
    todo = [cell for cell in share if not cell.finished]
    if len(todo) < len(share):
        say(f"{len(share) - len(todo)} of {len(share)} folds are finished already.")
    return todo if does(cli, "train") else []


def _refuse_unfinished(cells: Sequence[FoldRun]) -> None:
    if missing := [cell for cell in cells if not cell.finished]:
        names = ", ".join(cell.folder.name for cell in missing[:5])
        raise ValueError(
            f"{len(missing)} of {len(cells)} folds of {missing[0].folder.parent} are not finished: "
            f"{names}{', …' * (len(missing) > 5)}. Train them (the same command again, without "
            "--only=gather), then gather."
        )


def train_cells(
    cli: CommandLine,
    cells: Sequence[FoldRun],
    wandb_run: Any,
    callbacks: Sequence[Callback] = (),
    *,
    quiet: bool = False,
) -> Iterator[tuple[FoldRun, Trainer, LightningDataModule]]:
    """Fit cells one after another, yield each once it is fitted, then mark it as finished.

    Args:
        cli: The parsed command line.
        cells: Cells that are not finished; one that was interrupted is continued.
        wandb_run: W&B run that logs all of them, or None.
        callbacks: What watches the trainings beside the configured callbacks.
        quiet: Whether to show no progress bar.
    """
    progress = RunProgress(len(cells), shown=is_main_process() and not quiet)
    for cell in cells:
        started = time.monotonic()
        progress.begin(cell.folder.name)
        init = cli.config.init
        trainer, model, data = cli.build(
            cell.repeat,
            cell.fold,
            str(init_checkpoint(init, cell.repeat, cell.fold)) if init else None,
            default_root_dir=str(cell.folder),
            logger=_loggers(cell, wandb_run),
            callbacks=[progress, *callbacks],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=1,
        )
        resume_ckpt = resume_point(cell.folder, say, tidy=is_main_process())
        trainer.fit(model, data, ckpt_path=resume_ckpt, weights_only=True)
        yield cell, trainer, data
        if trainer.is_global_zero:
            cell.finish({"wall_time_s": time.monotonic() - started, "device": device_name()})
        trainer.strategy.barrier()
        progress.end()
    progress.bar.close()


def _loggers(cell: FoldRun, wandb_run: Any) -> list[Any]:
    loggers: list[Any] = [CSVLogger(cell.folder, name="logs", flush_logs_every_n_steps=1)]
    if wandb_run is not None:
        loggers.append(_Curves(experiment=wandb_run, prefix=cell.folder.name))
    return loggers


class _Curves(WandbLogger):
    @override
    def log_hyperparams(self, params: Any) -> None:
        """Send none: the run has its settings already, without the paths that these have."""
