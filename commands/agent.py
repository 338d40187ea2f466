"""`agent`: ask a W&B sweep for settings, and cross-validate one after another as trials."""

import os
import shlex
import sys
from pathlib import Path

import wandb

from callbacks.stop_signals import Stopped, stop_signals
from commands.grid import parse_known
from commands.runs.run_path import run_path
from commands.training.wandb_run import PROJECT, has_key

GIVEN = "MCTL_TRIAL"  # the sweep file's command hands it on; W&B's server never sees its content


def agent(args: list[str]) -> None:
    """Run trials until the sweep has no more settings.

    Each is a process of its own; a signal is handed on to it, and ends the agent after it.

    Raises:
        ValueError: If no sweep is given, or no key is known.
        Stopped: After a signal; after SIGUSR1 W&B gives the setting again.
    """
    options, arguments = parse_known("agent", args, "sweep", "run", "count")
    if not options.sweep:
        raise ValueError("Say which sweep: make agent SWEEP=what `make sweep` printed.")
    if not has_key():
        raise ValueError("W&B has no key here: `wandb login`, or search with make sweep LOCAL=1.")
    folder = run_path(options.run or "sweep")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_DIR", str(folder))  # where the agent notes what it was asked for
    os.environ[GIVEN] = shlex.join([*arguments, f"--run={folder}"])
    python = Path(sys.executable).parent  # whose `python` the trials run
    os.environ["PATH"] = os.pathsep.join([str(python), os.environ.get("PATH", "")])
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    wandb.agent(options.sweep, project=project, count=options.count, forward_signals=True)
    if stop_signals.exit_code:  # W&B's agent has waited for its trial, and swallowed it
        raise Stopped(stop_signals.exit_code)
