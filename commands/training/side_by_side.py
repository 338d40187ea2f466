"""Processes of this program side by side on one machine: one thread each, GPUs in turn."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.stop_signals import EXIT_CODES, Stopped, stop_signals


def run_side_by_side(commands: Sequence[Sequence[str]]) -> None:
    """Run verbs in processes of their own, pass signals on to them, and wait for all.

    Args:
        commands: A verb and its arguments for each process.

    Raises:
        Stopped: If they were asked to stop.
        ValueError: If there is none to run, or one of them ended otherwise.
    """
    if not commands:
        raise ValueError("WORKERS must be at least 1.")
    main = str(Path(__file__).parents[2] / "main.py")
    workers = [
        subprocess.Popen([sys.executable, main, *command], env=_environment(place))
        for place, command in enumerate(commands)
    ]

    def pass_on(number: int, frame: object) -> None:
        for worker in workers:
            worker.send_signal(number)

    for number in EXIT_CODES:
        signal.signal(number, pass_on)
    codes = [worker.wait() for worker in workers]
    stop_signals.listen()
    if stopped := set(codes) & set(EXIT_CODES.values()):
        raise Stopped(max(stopped))
    if any(codes):
        raise ValueError(
            f"Workers ended with exit codes {codes}; what they said above tells why. Mend it and "
            "give the command again."
        )


def _environment(place: int) -> dict[str, str]:
    """One thread a process, since two of one thread are faster than one of two; one GPU each."""
    environment = {"OMP_NUM_THREADS": "1"} | dict(os.environ)
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not devices and shutil.which("nvidia-smi"):
        import torch  # takes seconds, and only a machine with GPUs needs it here

        devices = [str(device) for device in range(torch.cuda.device_count())]
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    return environment
