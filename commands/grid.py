"""`grid`: every combination of a sweep file, its cells shared by any number of workers."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from commands.runs.run_path import run_path
from commands.sweeps.sweep_file import Sweep, read_sweep, setting_name
from commands.sweeps.sweep_table import failures, is_gathered, write_sweep_table
from commands.training.side_by_side import run_side_by_side


def yes(text: str) -> bool:
    """Read a switch of the command line."""
    return text == "true"


OPTIONS: dict[str, tuple[Callable[[str], Any], Any, str]] = {
    "sweep": (str, "", "the sweep file"),
    "run": (str, "", "name of the folder of all settings, kept in runs/<name>, or a folder"),
    "workers": (int, 1, "processes on this machine"),
    "retry_failed": (yes, False, "true: do again what has failed"),
    "local": (yes, False, "true: search on this machine, without W&B"),
    "table": (yes, False, "true: only write the table of what is there"),
    "count": (int, None, "settings after which an agent ends"),
    "given": (str, "", "what all settings share, as one text"),
}


def grid(args: list[str]) -> None:
    """Train every cell of every setting that is not finished, then write the grid's table."""
    options, arguments = parse_known("grid", args, "sweep", "run", "workers", "retry_failed")
    sweep, folder = read_sweep(options.sweep), run_path(options.run or "grid")
    names = [setting_name(setting) for setting in sweep.settings()]
    launch(sweep, folder, options, arguments)
    conclude(sweep, folder, names)


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


def parse_known(verb: str, args: list[str], *names: str) -> tuple[Namespace, list[str]]:
    """Parse some of the options that sweeps have; the rest is for `finetune`, in its order."""
    words = "All other settings are those of `finetune`, whose help explains them."
    parser = ArgumentParser(
        prog=f"main.py {verb}", description=words, allow_abbrev=False, exit_on_error=False
    )
    for name in names:
        kind, default, meaning = OPTIONS[name]
        parser.add_argument(f"--{name}", type=kind, default=default, help=meaning)
    return parser.parse_known_args(args)


def launch(sweep: Sweep, folder: Path, options: Namespace, arguments: Sequence[str]) -> None:
    """Run workers on this machine, and wait for all.

    Args:
        sweep: The sweep.
        folder: Folder of its settings.
        options: `workers`, how many; `retry_failed`, whether to do again what has failed.
        arguments: What all settings share.
    """
    if options.retry_failed:
        for file in folder.glob("**/failed.json"):
            file.unlink()
    own = ["worker", f"--sweep={sweep.path}", f"--run={folder}", *arguments]
    run_side_by_side([own] * options.workers)
