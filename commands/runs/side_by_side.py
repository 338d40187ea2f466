"""Processes of this program next to each other on one machine: one thread each, GPUs in turn."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from callbacks.stop_signals import EXIT_CODES, Stopped

MAIN = Path(__file__).parents[2] / "main.py"
PR_SET_PDEATHSIG = 1  # of Linux' prctl.h
LIBC = ctypes.CDLL(None)


def run_side_by_side(commands: Sequence[Sequence[str]]) -> None:
    """Run verbs in processes of their own, and wait for all.

    Args:
        commands: A verb and its arguments for each process.

    Raises:
        Stopped: If they were asked to stop.
        ValueError: If there is none to run, or one of them ended otherwise.
    """
    if not commands:
        raise ValueError("WORKERS must be at least 1.")
    places = range(len(commands))
    workers = [start_process(commands[place], place, len(commands)) for place in places]
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        stop_processes(workers)
    if stopped := set(codes) & set(EXIT_CODES.values()):
        raise Stopped(max(stopped))
    if any(codes):
        raise ValueError(
            f"Workers ended with exit codes {codes}; their messages above tell why. Fix it and "
            "give the command again."
        )


def start_process(
    command: Sequence[str], place: int, num_places: int, output: IO[str] | None = None
) -> subprocess.Popen:
    """Start a verb in a process of its own, which is asked to stop if this one is killed.

    Args:
        command: The verb and its arguments.
        place: Which of the processes side by side this one is, from 0.
        num_places: How many there are; a single one keeps all threads and GPUs.
        output: File for all that it prints.
    """
    return subprocess.Popen(
        [sys.executable, str(MAIN), *command],
        env=_environment(place) if num_places > 1 else None,
        stdout=output,
        stderr=output,
        preexec_fn=_stop_with_parent,
    )


def stop_processes(processes: Sequence[subprocess.Popen]) -> None:
    """Ask processes to save and stop, and wait until they have."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _stop_with_parent() -> None:
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
