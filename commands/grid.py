"""`grid`: every combination of a sweep file, its cells shared by any number of workers."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands.run_path import run_path
from commands.sweep_file import Sweep, read_sweep, setting_name
from commands.sweep_table import failures, is_gathered, write_sweep_table

STOPS = (signal.SIGTERM, signal.SIGUSR1)


def grid(args: list[str]) -> None:
    """Train every cell of every setting that is not finished, then write the grid's table."""
    options, arguments = parse_known(
        "grid",
        args,
        "Train every combination of a sweep file; all other settings are those of `finetune`.",
        {
            "--sweep": {"help": "the sweep file, of method grid"},
            "--run": {"help": "name of the grid, kept in runs/<name>, or a folder"},
            "--workers": {"type": int, "default": 1, "help": "processes on this machine"},
            "--launched": {"default": "false", "help": argparse.SUPPRESS},
            "--retry_failed": {"default": "false", "help": "true: train again what failed"},
        },
    )
    sweep, folder = read_sweep(options.sweep), run_path(options.run or "grid")
    settings = list(sweep.settings())
    if options.retry_failed == "true":
        for file in folder.glob("**/failed.json"):
            file.unlink()
    if options.workers > 1:
        launch(["grid", f"--sweep={sweep.path}", f"--run={folder}", *arguments], options.workers)
    else:
        from commands.grid_worker import setting_run, work, write_setting  # a launcher needs none

        runs = [setting_run(arguments, folder, setting) for setting in settings]
        for run, setting in zip(runs, settings, strict=True):
            write_setting(run.folder, setting)
        work(runs)
    if options.launched == "false":
        conclude(sweep, folder, [setting_name(setting) for setting in settings])


def conclude(sweep: Sweep, folder: Path, names: Sequence[str]) -> None:
    """Write the table of results, and see that all is done.

    Args:
        sweep: The sweep.
        folder: Its folder.
        names: Folders of the settings that should be finished.

    Raises:
        ValueError: If anything failed, with a line for each, or is missing.
    """
    print(write_sweep_table(sweep, folder))
    if lines := failures(folder):
        raise ValueError(
            "\n".join([f"{len(lines)} parts failed:", *lines])
            + "\nMend the cause and give the command again with RETRY=1 (--retry_failed=true)."
        )
    if missing := [name for name in names if not is_gathered(folder / name)]:
        raise ValueError(
            f"{len(missing)} of {len(names)} settings are not finished (first: {missing[0]}): "
            "give the command again."
        )


def parse_known(
    verb: str, args: list[str], words: str, options: Mapping[str, dict[str, Any]]
) -> tuple[argparse.Namespace, list[str]]:
    """Parse a verb's own options; everything else is for `finetune`, in its order."""
    parser = argparse.ArgumentParser(
        f"main.py {verb}", description=words, allow_abbrev=False, exit_on_error=False
    )
    for name, settings in options.items():
        parser.add_argument(name, **settings)
    return parser.parse_known_args(args)


def launch(arguments: Sequence[str], num_workers: int) -> None:
    """Run a verb in several processes, pass signals on to them, and wait for all.

    Raises:
        SystemExit: With the highest code, if one of them was stopped or died.
    """
    main = str(Path(__file__).parents[1] / "main.py")
    command = [sys.executable, main, *arguments, "--workers=1", "--launched=true"]
    workers = [subprocess.Popen(command, env=_environment(place)) for place in range(num_workers)]

    def pass_on(number: int, frame: object) -> None:
        for worker in workers:
            worker.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, pass_on)
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(max(code if code >= 0 else 128 - code for code in codes))


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
