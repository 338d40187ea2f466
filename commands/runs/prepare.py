"""What every training finds out before it begins: its settings, its data, its folds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from typing_extensions import override

from callbacks.model_contract import refuse_incomplete
from callbacks.required import required_callbacks
from commands.runs.command_line import make_parser, parse
from commands.runs.foundations import (
    find_foundation,
    foundation_lines,
    is_foundation,
    start_from_foundation,
)
from commands.runs.init_match import init_match
from commands.runs.main_process import is_main_process, say
from commands.runs.run_folder import (
    FoldRun,
    claim,
    fold_folder,
    give_back,
    init_checkpoint,
    planned_budget,
)
from commands.runs.trainer_check import refuse_trainer
from datamodules.checks.cohort_check import CohortCheck
from datamodules.cohort import Cohort
from datamodules.fingerprint import default_budget
from datamodules.reading.cohort_table import read_other_columns
from evaluation.report.tables import DESCRIBING
from files.run_path import run_path
from lightning_modules.transfer import Seen, check_start

NOT_SETTINGS = (
    *("config", "run", "fold", "repeat", "only", "num_tasks", "task", "workers", "wandb"),
    "accept_licence",
)


@dataclass(frozen=True)
class Run:
    """A run whose settings are parsed and whose data are checked.

    Args:
        parser: The parser of its verb.
        config: Its settings, completed by what the data tell.
        data: The datamodule of the first fold.
        check: What is wrong with the data.
        plan: What is done to a scan, in words.
    """

    parser: LightningArgumentParser
    config: Namespace
    data: Any
    check: CohortCheck
    plan: str

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return run_path(self.config.run)

    @cached_property
    def fold_runs(self) -> list[FoldRun]:
        """All fold runs, each with a folder of its own."""
        pairs = self.data.fold_runs()
        return [FoldRun(r, f, fold_folder(self.folder, r, f)) for r, f in pairs]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The completed settings as plain values, without what says which part to do."""
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True, format="json")
        config = json.loads(text)
        return {key: value for key, value in config.items() if key not in NOT_SETTINGS}

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of the run."""
        return {
            "seed": self.config.seed_everything,
            "init": self.config.init,
            "data_hash": self.data.cohort.content_hash(),
            "preprocessing": self.plan,
            **target_fact(self.data.cohort),
        }

    def describe(self, reads: Sequence[str] = ()) -> None:
        """Print what the run is made of; fill the cache where that is the step asked for.

        Args:
            reads: Columns of the table that the verb itself reads.
        """
        cohort = self.data.cohort
        if warnings := self.check.warnings_in_brief():
            say(warnings)
        others = read_other_columns(cohort.table, cohort.columns, cohort.contrasts)
        used = {*DESCRIBING, *reads, *(name for name, _ in cohort.covariates.columns)}
        used |= {cohort.columns.mask} if cohort.preprocessing.uses_mask else set()
        unread = [name for name in others if not used & {name, name.lower()}]
        if unread:
            say(f"Columns of the table that nothing reads: {', '.join(unread)}.")
        for remark in cohort.covariates.remarks:
            say(remark)
        num_patients, num_made = len(set(cohort.patients)), len(cohort.scans) - len(cohort.real)
        made = f", {num_made} of them synthetic, for training alone" if num_made else ""
        what = f"{len(cohort.scans)} scans of {num_patients} patients{made}"
        say(f"Run {self.folder}: {what}. {self.plan}")
        if is_foundation(self.config.init):
            for line in foundation_lines(self.config.init, cohort.paths):
                say(line)
        elif self.config.init is not None:
            first = (asked_for(self.config, self.fold_runs) or self.fold_runs)[0]
            for line in init_match(self.config.init, first, cohort, self.folder):
                say(line)
        if self.config.only == "prepare":  # else each training does it
            self.data.fill_cache()
        looks = is_main_process() and self.config.only != "gather"
        if looks and (clipped := cohort.volumes.much_clipped()):
            say(clipped)

    def does(self, step: str) -> bool:
        """Whether the command line asks for a step: prepare, train or gather."""
        return self.config.only in (None, step)

    def init_ckpt(self, fold_run: FoldRun) -> str | None:
        """The checkpoint that a fold run starts from; None is random weights."""
        init = self.config.init
        if init is None or is_foundation(init):
            return None
        return str(init_checkpoint(init, fold_run.repeat, fold_run.fold))

    def build(
        self, fold_run: FoldRun, callbacks: Sequence[Callback] = (), wandb_run: Any = None
    ) -> tuple[Trainer, LightningModule, LightningDataModule]:
        """Build trainer, model and data of a fold run, seeded.

        Args:
            fold_run: The fold run.
            callbacks: What watches it next to the configured callbacks.
            wandb_run: W&B run that logs its curves, or None.
        """
        parts = Namespace(trainer=self.config.trainer, model=self.config.model.clone())
        if (init_ckpt := self.init_ckpt(fold_run)) is not None:
            if "init_ckpt" not in parts.model.init_args:
                raise ValueError(f"{parts.model.class_path} cannot start from a run: drop INIT.")
            parts.model.init_args.init_ckpt = init_ckpt
        seed = fold_seed(self.config.seed_everything, fold_run.repeat, fold_run.fold)
        lightning.seed_everything(seed, workers=True, verbose=False)
        objects = self.parser.instantiate(parts)
        data = self.data.with_fold(fold_run.repeat, fold_run.fold)
        refuse_incomplete(objects.model, data)
        if is_foundation(self.config.init):
            seen = Seen(data_sets=set(find_foundation(self.config.init).data_sets or ()))
        else:
            seen = check_start(parts.model.init_args.get("init_ckpt"), data)
        configured: Mapping[str, Any] = vars(objects.trainer)
        own = configured["callbacks"] or []
        callbacks = [*(own if isinstance(own, list) else [own]), *callbacks]
        settings = {
            "callbacks": required_callbacks(callbacks, seen),
            "default_root_dir": str(fold_run.folder),
            "logger": _loggers(fold_run, wandb_run),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 1,
        }
        if not getattr(data, "validates", True):
            settings["limit_val_batches"] = 0
        return Trainer(**{**configured, **settings}), objects.model, data


def prepare(verb: str, args: list[str], options: type | None = None) -> Run:
    """Parse the settings of a run, check its data, plan their preprocessing.

    Args:
        verb: Name of the verb.
        args: The arguments after the verb.
        options: Dataclass of the options that this verb alone has.

    Raises:
        ValueError: If a setting or the data are not as they must be.
    """
    parser = make_parser(verb, options)
    config = parse(parser, args)
    start_from_foundation(config)
    refuse_trainer(config.trainer)
    data = parser.instantiate(Namespace(data=config.data.clone())).data
    check = data.cohort.check(data.expectations)
    plan = data.cohort.plan(_voxel_budget(config))
    completed = config.clone()
    planned = Namespace(vars(data.cohort.preprocessing))
    completed.data.init_args.preprocessing.update(planned)
    if "init_args" not in completed.model:  # its class has no settings
        completed.model.init_args = Namespace()
    for name, value in data.facts().items():
        if name in completed.model.init_args:
            completed.model.init_args[name] = value
    return Run(parser, completed, data, check, plan)


def target_fact(cohort: Cohort) -> dict[str, str]:
    """Name the column that a regression predicts; nothing of a classification."""
    return {"target": cohort.columns.target} if cohort.task == "regression" else {}


def asked_for(config: Any, fold_runs: Sequence[FoldRun]) -> list[FoldRun]:
    """The fold runs of the repeat and fold that the command line asks for."""
    repeat, fold = config.repeat, config.fold
    return [f for f in fold_runs if repeat in (None, f.repeat) and fold in (None, f.fold)]


def unfinished(config: Any, fold_runs: Sequence[FoldRun]) -> list[FoldRun]:
    """Choose the fold runs that the command line asks for and that are not finished yet.

    Args:
        config: The settings of the run.
        fold_runs: All of its fold runs.

    Raises:
        ValueError: If it asks for a repeat, fold or task that does not exist, or to gather what
            is not finished.
    """
    task, num_tasks, asked = config.task, config.num_tasks, asked_for(config, fold_runs)
    if not asked:
        last = fold_runs[-1]
        raise ValueError(
            f"There is no REPEAT={config.repeat} FOLD={config.fold}: repeats are 0 to "
            f"{last.repeat}, folds 0 to {last.fold}."
        )
    if not 0 <= task < num_tasks:
        raise ValueError(f"There is no task {task} of {num_tasks}: they count from 0.")
    missing = [each for each in fold_runs if not each.finished]
    if config.only == "gather" and missing:
        names = ", ".join(each.name for each in missing[:5])
        raise ValueError(
            f"{len(missing)} of {len(fold_runs)} folds of {missing[0].folder.parent} are not "
            f"finished: {names}{', …' * (len(missing) > 5)}. Train them (the same command again, "
            "without --only=gather), then gather."
        )
    share = asked[task::num_tasks]
    todo = [each for each in share if each in missing]
    if len(todo) < len(share):
        say(f"{len(share) - len(todo)} of {len(share)} folds are finished already.")
    return todo if config.only in (None, "train") else []


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Keep the run's folder for its settings; a failure before any training gives it back."""
    is_first = is_main_process() and claim(run.folder, run.settings, run.facts)
    try:
        yield
    except BaseException:
        if is_first:
            give_back(run.folder)
        raise


def _voxel_budget(config: Namespace) -> int | None:
    """Voxels that a scan may have where neither they nor a shape are set."""
    preprocessing = config.data.init_args.preprocessing
    if preprocessing.spatial_shape is not None or preprocessing.voxel_budget is not None:
        return preprocessing.voxel_budget
    return planned_budget(run_path(config.run)) or default_budget(config.trainer.accelerator)


def fold_seed(seed: int, repeat: int, fold: int) -> int:
    """Seed of everything random in the training of one fold."""
    return int(np.random.SeedSequence((seed, repeat, fold)).generate_state(1)[0])


def _loggers(fold_run: FoldRun, wandb_run: Any) -> list[Any]:
    loggers: list[Any] = [CSVLogger(fold_run.folder, name="logs", flush_logs_every_n_steps=1)]
    if wandb_run is not None:
        loggers.append(_Curves(experiment=wandb_run, prefix=fold_run.name))
    return loggers


class _Curves(WandbLogger):
    @override
    def log_hyperparams(self, params: Any) -> None:
        """Send none: the run has its settings already, without the paths that these have."""
