"""`agent`: cross-validate the settings that a W&B sweep asks for, one after another.

W&B's agent starts `main.py agent -- --model.lr=0.001 …` for each, as the sweep file's `command`
asks. What all settings share goes there by an environment variable: W&B's server never sees it.
"""

import os
import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path

from callbacks.stop_signals import Stopped, stop_signals
from commands.sweeps.sweep_file import (
    read_arguments,
    setting_arguments,
    setting_name,
    write_setting,
)
from files.run_path import run_path

SHARED = "MCTL_SHARED"


def agent(args: list[str]) -> None:
    """Train settings until the sweep has no more; after `--`, train that setting alone.

    Each is a process of its own; a signal is handed on to it, and ends the agent after it.

    Raises:
        ValueError: If no sweep is given, or no key is known.
        Stopped: After a signal; after SIGUSR1 W&B gives the setting again.
    """
    parser = ArgumentParser(
        prog="main.py agent",
        description="All other settings are those of `finetune`, whose help explains them.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--sweep", default="", help="the id that `make sweep WANDB=1` printed")
    parser.add_argument("--run", default="sweep", help="folder of all settings, or its name")
    parser.add_argument("--count", type=int, help="settings after which the agent ends")
    split = args.index("--") if "--" in args else len(args)
    own = [*shlex.split(os.environ.get(SHARED, "")), *args[:split]]
    options, shared = parser.parse_known_args(own)
    folder = run_path(options.run)
    if split < len(args):
        _train(args[split + 1 :], folder, shared)
    else:
        _ask(options.sweep, options.count, folder, shared)


def _train(arguments: list[str], folder: Path, shared: list[str]) -> None:
    """Cross-validate one setting, in the folder that its content names."""
    from commands.finetune import finetune  # an agent that only asks needs no torch
    from commands.runs.main_process import is_main_process

    setting = read_arguments(arguments)
    place = folder / setting_name(setting)
    if is_main_process():
        write_setting(place, setting)
    finetune([*shared, *setting_arguments(setting), f"--run={place}"])


def _ask(sweep: str, count: int | None, folder: Path, shared: list[str]) -> None:
    """Let W&B's agent ask for settings and start a process for each."""
    import wandb

    from commands.runs.wandb_run import PROJECT, has_key

    if not sweep:
        raise ValueError("Give the sweep: make agent SWEEP=what `make sweep WANDB=1` printed.")
    if not has_key():
        raise ValueError("W&B has no key here: `wandb login`, or search with make sweep.")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_DIR", str(folder))  # where the agent notes what it was asked for
    os.environ[SHARED] = shlex.join([*shared, f"--run={folder}"])
    python = Path(sys.executable).parent  # whose `python` the trainings run
    os.environ["PATH"] = os.pathsep.join([str(python), os.environ.get("PATH", "")])
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    wandb.agent(sweep, project=project, count=count, forward_signals=True)
    if stop_signals.exit_code:  # W&B's agent has waited for its training, and swallowed it
        raise Stopped(stop_signals.exit_code)
