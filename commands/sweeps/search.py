"""A sweep on one machine or on several: Optuna chooses settings, `finetune` trains them.

The study is a journal file in the sweep's folder, with Optuna's lock by symbolic link, which NFS
keeps as well. Any number of the same command share it. Each setting is a plain run in a folder of
its own, trained by a plain `finetune` process; whether it is finished, the folder tells. So a
setting whose folder was deleted is trained again, and one that was interrupted continues.

The journal does not tell whether a worker still lives. Each worker touches the log of what it
trains every second; a log that is older than three minutes has no worker, and its setting goes to
whoever asks next. Both times are the file server's, so that clocks need not agree. On the same
machine a process that is gone is noticed at once.
"""

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from callbacks.stop_signals import EXIT_CODES, Stopped
from commands.runs.side_by_side import start_process, stop_processes
from commands.sweeps.sweep_file import (
    Setting,
    Sweep,
    setting_arguments,
    setting_name,
    write_setting,
)
from commands.sweeps.sweep_table import (
    FAILED_NAME,
    PRUNED_NAME,
    finished_figures,
    finished_folds,
    has_folds_left,
    is_over,
    read_settings,
    running_figures,
    words_of,
)
from files.hashes import digest
from files.whole_file import is_gone, write_whole

LOG_NAME = "log.txt"
POLL_S = 1.0
STALE_S = 180.0
OPEN = (TrialState.WAITING, TrialState.RUNNING)


@dataclass
class Job:
    """A setting that this process trains."""

    trial: Trial
    setting: Setting
    folder: Path
    place: int  # which of this machine's processes it is
    process: Popen
    started: float  # by the monotonic clock
    reported: int = 0  # folds that the pruner knows of


class Search:
    """Train the settings of a sweep until none is left.

    Args:
        sweep: The sweep.
        folder: Folder of its settings.
        arguments: What all settings share, as arguments of `finetune`.
        workers: Settings to train at the same time on this machine.
    """

    def __init__(
        self, sweep: Sweep, folder: Path, arguments: Sequence[str], workers: int = 1
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.folder, self.workers = sweep, folder, workers
        self.arguments = ["--wandb=disabled", *arguments]
        self.num_settings = sweep.num_settings()
        self.jobs: list[Job] = []
        self.num_concluded, self.begun = 0, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        journal = str(folder / "study.log")
        self.lock = JournalFileSymlinkLock(f"{journal}.claim", grace_period=300)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(journal, JournalFileSymlinkLock(journal))),
            study_name=digest([sweep.parameters, sweep.content["metric"]])[:12],
            load_if_exists=True,
            direction="maximize" if sweep.maximize else "minimize",
            pruner=sweep.pruner(),
        )

    def run(self) -> None:
        """Train settings until all are over, here and with other workers.

        Raises:
            Stopped: If a training was asked to stop.
            ValueError: If the first setting of a new sweep cannot even be prepared.
        """
        try:
            while True:
                while len(self.jobs) < self.workers and (claim := self._claim()):
                    self._start(*claim)
                if not self.jobs and not self.study.get_trials(False, (TrialState.RUNNING,)):
                    return
                time.sleep(POLL_S)
                self.jobs = [job for job in self.jobs if not self._is_over(job)]
        finally:
            stop_processes([job.process for job in self.jobs])
            for job in self.jobs:
                self._tell(job.trial, job.folder)

    def _claim(self) -> tuple[Trial, Setting] | None:
        """Take a setting that has no worker, or draw a new one; None if there is none now."""
        with self._alone():
            while True:
                self._put_back()
                trials = self._trials()
                num_drawn = sum("fixed_params" not in trial.system_attrs for trial in trials)
                waiting = any(trial.state == TrialState.WAITING for trial in trials)
                if not waiting and (self.sweep.is_grid or num_drawn >= self.num_settings):
                    return None
                self.study.sampler = self.sweep.sampler(seed=num_drawn)
                trial = self.study.ask(self.sweep.distributions())
                setting = self.sweep.setting_of(trial.params)
                folder = self.folder / setting_name(setting)
                known = {other.user_attrs["name"] for other in trials if other.state in OPEN}
                is_new = waiting or folder.name not in known
                trial.set_user_attr("name", folder.name)
                if is_over(folder) or not is_new:  # drawn a second time
                    self._tell(trial, folder)
                    continue
                trial.set_user_attr("worker", [platform.node(), os.getpid()])
                write_setting(folder, setting)
                (folder / LOG_NAME).touch()
                return trial, setting

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def _put_back(self) -> None:
        """Queue every setting of the grid, or of the study, that is not over and has no worker."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and not self._has_worker(trial):
                self.study.tell(trial.number, state=TrialState.FAIL)
        trials = self._trials()
        wanted = {trial.user_attrs["name"]: trial.params for trial in trials if trial.params}
        if self.sweep.is_grid:
            wanted = {setting_name(s): dict(s) for s in self.sweep.settings()}
        known = {trial.user_attrs["name"] for trial in trials if trial.state in OPEN}
        for name, values in wanted.items():
            if name not in known and not is_over(self.folder / name):
                self.study.enqueue_trial(values, user_attrs={"name": name})

    def _trials(self) -> list[FrozenTrial]:
        """All trials, but for those whose worker was killed in the middle of drawing them."""
        return [t for t in self.study.get_trials(deepcopy=False) if "name" in t.user_attrs]

    def _has_worker(self, trial: FrozenTrial) -> bool:
        """Whether a trial's worker is alive, as far as can be told from here."""
        host, process = trial.user_attrs.get("worker", ("", 0))
        if host == platform.node() and is_gone(process):
            return False
        clock = self.folder / "clock"
        clock.touch()
        try:
            log = self.folder / trial.user_attrs["name"] / LOG_NAME
            return clock.stat().st_mtime - log.stat().st_mtime < STALE_S
        except (KeyError, FileNotFoundError):
            return False

    def _start(self, trial: Trial, setting: Setting) -> None:
        """Start the training of a setting; the first of all prepares the data for the others."""
        folder = self.folder / setting_name(setting)
        place = min(set(range(self.workers)) - {job.place for job in self.jobs})
        is_first = not any(self.folder.glob("*/splits.csv"))
        steps = ["--only=prepare"] if is_first else []
        process = self._finetune(setting, folder, place, *steps)
        job = Job(trial, setting, folder, place, process, time.monotonic())
        self.jobs.append(job)
        if is_first:
            while process.poll() is None:
                os.utime(folder / LOG_NAME)
                time.sleep(POLL_S)
            if process.returncode:
                raise ValueError(_error(job))
            job.process = self._finetune(setting, folder, place)

    def _finetune(self, setting: Setting, folder: Path, place: int, *more: str) -> Popen:
        command = ["finetune", *self.arguments, *setting_arguments(setting), f"--run={folder}"]
        with (folder / LOG_NAME).open("a") as log:
            return start_process([*command, *more], place, self.workers, log)

    def _is_over(self, job: Job) -> bool:
        """Look at a training; conclude it if it has ended, or is behind the others."""
        os.utime(job.folder / LOG_NAME)
        code = job.process.poll()
        if self._is_behind(job) and code is None and has_folds_left(job.folder):
            stop_processes([job.process])
            if not has_folds_left(job.folder):  # the last ended just now: the tables are missing
                job.process = self._finetune(job.setting, job.folder, job.place)
                return False
            write_whole(json.dumps({"folds": job.reported}), job.folder / PRUNED_NAME)
        elif code is None:
            return False
        elif code in EXIT_CODES.values():
            raise Stopped(code)
        elif code:
            write_whole(json.dumps({"error": _error(job)}), job.folder / FAILED_NAME)
        self._tell(job.trial, job.folder)
        self._say(job)
        return True

    def _is_behind(self, job: Job) -> bool:
        """Report the figures after each new fold; answer whether the pruner stops the setting."""
        if not self.sweep.prunes:
            return False
        folds = finished_folds(job.folder)
        while job.reported < len(folds):
            job.reported += 1
            figures = running_figures(folds[: job.reported])
            if self.sweep.measure in figures:
                job.trial.report(figures[self.sweep.measure], job.reported)
                if job.trial.should_prune():
                    return True
        return False

    def _tell(self, trial: Trial, folder: Path) -> None:
        """Tell the study what came of a trial; what is neither finished nor pruned has failed."""
        value = finished_figures(folder).get(self.sweep.measure)
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        if (folder / PRUNED_NAME).is_file():
            value, state = None, TrialState.PRUNED
        self.study.tell(trial, value, state, skip_if_finished=True)

    def _say(self, job: Job) -> None:
        """Print what came of a setting, and how long the others will take."""
        self.num_concluded += 1
        num_over = sum(map(is_over, read_settings(self.folder)))
        seconds = time.monotonic() - self.begun
        left = (self.num_settings - num_over) * seconds / self.num_concluded
        figures = finished_figures(job.folder)
        if (job.folder / FAILED_NAME).is_file():
            outcome = "failed: " + json.loads((job.folder / FAILED_NAME).read_text())["error"]
        elif figures:
            outcome = f"{self.sweep.measure} {figures.get(self.sweep.measure, float('nan')):.3f}"
        else:
            outcome = f"stopped early after {job.reported} folds"
        took = duration(time.monotonic() - job.started)
        rest = f", about {duration(left)} left" if num_over < self.num_settings else ""
        print(
            f"{words_of(job.setting)}: {outcome} ({took}). "
            f"{num_over} of {self.num_settings} settings{rest}.",
            flush=True,
        )


def duration(seconds: float) -> str:
    """Write a duration in the unit that fits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _error(job: Job) -> str:
    """Why a training ended: its last line of an error, which `main.py` marks, or its last line."""
    lines = (job.folder / LOG_NAME).read_text(errors="replace").strip().splitlines() or ["–"]
    errors = [line for line in lines if line.startswith("error: ")]
    last_line = f"exit code {job.process.returncode}, {lines[-1]}"
    return errors[-1].removeprefix("error: ") if errors else last_line
