"""`agent`: ask a W&B sweep for settings, and cross-validate one after another as trials."""

import os
import shlex
import signal
import sys
from pathlib import Path

import wandb

from callbacks.stop_signals import SAVED, Stopped
from commands.grid import parse_known
from commands.wandb_run import PROJECT

GIVEN = "MCTL_TRIAL"  # the sweep file's command hands it on; W&B's server never sees its content


def agent(args: list[str]) -> None:
    """Run trials until the sweep has no more settings.

    Each is a process of its own; a signal is handed on to it, and ends the agent after it.

    Raises:
        Stopped: After SIGUSR1; the trial has saved, and W&B gives its setting again.
    """
    options, arguments = parse_known("agent", args, "sweep", "run", "count")
    if not options.sweep:
        raise ValueError("Say which sweep: make agent SWEEP=what `make sweep` printed.")
    os.environ[GIVEN] = shlex.join([*arguments, f"--run={options.run or 'sweep'}"])
    python = Path(sys.executable).parent  # whose `python` the trials run
    os.environ["PATH"] = os.pathsep.join([str(python), os.environ.get("PATH", "")])
    stopped = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt  # W&B's agent then waits for its trial, and ends

    signal.signal(signal.SIGUSR1, stop)
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    wandb.agent(options.sweep, project=project, count=options.count, forward_signals=True)
    if stopped:
        raise Stopped(SAVED)
