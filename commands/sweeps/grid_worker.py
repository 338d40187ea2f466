"""One worker of a grid: it trains whatever cell is free, until none of any setting is left."""

import os
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from callbacks.stop_signals import stop_signals
from commands.runs.command_line import CommandLine
from commands.runs.main_process import say
from commands.runs.run_folder import FoldRun, fold_folder, write_json
from commands.sweeps.sweep_file import Setting, setting_arguments, setting_name
from commands.sweeps.sweep_table import FAILED_NAME, SETTING_NAME, failed, is_gathered
from commands.sweeps.worker_claim import Claim, ClaimLostError, StopIfClaimLost, claimed
from commands.training.cross_validation import gather_folds, open_folds, train_folds
from files.hashes import digest

WAIT_S = 2.0


@dataclass
class SettingRun:
    """The run of one setting, opened when its first cell is trained here.

    Args:
        folder: Its folder, named by the setting's content.
        cli: Its parsed command line.
    """

    folder: Path
    cli: CommandLine
    is_open: bool = False

    @cached_property
    def fold_runs(self) -> list[FoldRun]:
        """All its folds."""
        return [FoldRun(r, f, fold_folder(self.folder, r, f)) for r, f in self.cli.data.fold_runs()]

    @property
    def gathered(self) -> bool:
        """Whether its tables are written."""
        return is_gathered(self.folder)

    def train(self, cell: FoldRun, claim: Claim) -> None:
        """Train one fold."""
        if not self.is_open:
            open_folds(self.cli)
            self.is_open = True
        train_folds(
            self.cli, self.fold_runs, [cell], callbacks=[StopIfClaimLost(claim)], quiet=True
        )

    def gather(self) -> None:
        """Write the tables of all folds."""
        gather_folds(self.cli, self.folder, self.fold_runs)


def setting_run(arguments: Sequence[str], grid: Path, setting: Setting) -> SettingRun:
    """Parse a setting on top of what all settings share, and name its folder.

    Raises:
        ValueError: If the parser does not take it, or it would start processes of its own.
    """
    folder = grid / setting_name(setting)
    cli = CommandLine("finetune", [*arguments, *setting_arguments(setting), f"--run={folder}"])
    devices = cli.config.trainer.devices
    if str(devices) != "1" and not (devices == "auto" and torch.cuda.device_count() < 2):
        raise ValueError(
            f"trainer.devices is {devices!r}: a worker trains on one device. Say "
            "--trainer.devices=1 and start a worker for each device, or train a whole setting on "
            "several with `main.py trial`."
        )
    if (cli.config.fold, cli.config.repeat) != (None, None):
        raise ValueError("The folds of a grid are shared by its workers: drop FOLD and REPEAT.")
    return SettingRun(folder, cli)


def write_setting(folder: Path, setting: Setting) -> None:
    """Keep a setting beside its results: its folder's name may be a hash."""
    if not (folder / SETTING_NAME).is_file():
        write_json(dict(setting), folder / SETTING_NAME)


def work(runs: Sequence[SettingRun]) -> None:
    """Train cells until every one is finished, or failed.

    A cell that another worker has is left to it; when nothing else is left, this one waits, so
    that it can take over if the other dies.
    """
    own_place = int(digest(platform.node(), os.getpid())[:8], 16)
    while todo := list(_unfinished(runs)):
        begin = own_place % len(todo)
        worked = [_do(run, cell) for run, cell in todo[begin:] + todo[:begin]]
        if not any(worked):
            time.sleep(WAIT_S)


def _unfinished(runs: Sequence[SettingRun]) -> Iterator[tuple[SettingRun, FoldRun | None]]:
    """What is left to do; None in the place of a cell is gathering the setting's folds."""
    for run in runs:
        cells = run.fold_runs
        yield from ((run, cell) for cell in cells if not (cell.finished or failed(cell.folder)))
        done = all(cell.finished for cell in cells)
        if done and not (run.gathered or failed(run.folder)):
            yield run, None


def _do(run: SettingRun, cell: FoldRun | None) -> bool:
    """Train a cell, or gather a setting, unless another worker has it."""
    folder = run.folder if cell is None else cell.folder
    with claimed(folder) as claim:
        if claim is None:
            return False
        if failed(folder) or (run.gathered if cell is None else cell.finished):
            return True  # another worker has done it since
        started = time.monotonic()
        name = f"{run.folder.name}/{cell.folder.name}" if cell else run.folder.name
        with failures_written_down(folder, name):
            if cell is None:
                run.gather()
            else:
                run.train(cell, claim)
            say(f"{name}: done in {time.monotonic() - started:.0f} s")
    return True


@contextmanager
def failures_written_down(folder: Path, name: str) -> Iterator[None]:
    """Let a worker go on after an error, which failed.json keeps, but not without a disk.

    Args:
        folder: Where failed.json goes.
        name: What the lines on the screen call it.
    """
    try:
        yield
    except ClaimLostError:
        say(f"{name}: another worker goes on with it.")
    except Exception as error:
        if isinstance(error, OSError) or stop_signals.exit_code:
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        write_json({"error": words, "traceback": traceback.format_exc()}, folder / FAILED_NAME)
        say(f"{name}: FAILED, {words}")
