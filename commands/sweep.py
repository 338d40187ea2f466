"""`sweep`: try the settings of a sweep file, on this machine and others, or by W&B's server."""

import os
from argparse import ArgumentParser
from pathlib import Path

from commands.sweeps.search import Search
from commands.sweeps.sweep_file import Sweep, read_sweep
from commands.sweeps.sweep_table import FAILED_NAME, failures, write_sweep_table
from files.run_path import run_path

OTHERS = "All other settings are those of `finetune`, whose help explains them."
PARTS = ("--fold", "--repeat", "--only", "--num_tasks", "--task")


def sweep(args: list[str]) -> None:
    """Train every setting that is not finished, and write their table; or ask W&B for a sweep.

    Raises:
        ValueError: If a setting failed, with a line for each, or W&B has no key.
    """
    parser = ArgumentParser(
        prog="main.py sweep", description=OTHERS, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--sweep", default="", help="the sweep file")
    parser.add_argument("--run", default="sweep", help="folder of all settings, or its name")
    parser.add_argument("--workers", type=int, default=1, help="settings at the same time here")
    parser.add_argument("--retry_failed", action="store_true", help="train again what failed")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--by_wandb", action="store_true", help="create a sweep on W&B's server")
    options, shared = parser.parse_known_args(args)
    space, folder = read_sweep(options.sweep), run_path(options.run)
    if options.by_wandb:
        _create(space)
        return
    if not options.table:
        _search(space, folder, shared, options.workers, retry=options.retry_failed)
    print(write_sweep_table(space, folder))
    if lines := failures(folder):
        raise ValueError(
            "\n".join([f"{len(lines)} settings failed:", *lines])
            + "\nFix the cause and give the command again with RETRY=1 (--retry_failed)."
        )


def _search(space: Sweep, folder: Path, shared: list[str], workers: int, *, retry: bool) -> None:
    if parts := [text for text in shared if text.partition("=")[0] in PARTS]:
        raise ValueError(f"A sweep trains all folds of each setting: drop {' '.join(parts)}.")
    if workers < 1:
        raise ValueError("WORKERS must be at least 1.")
    search = Search(space, folder, shared, workers)
    for file in folder.glob(f"*/{FAILED_NAME}") if retry else ():
        file.unlink()
    print(f"{search.num_settings} settings, {workers} at a time; see {folder}/*/log.txt.")
    search.run()


def _create(space: Sweep) -> None:
    import wandb  # half a second that a search does not need

    from commands.runs.wandb_run import PROJECT, has_key

    if not has_key() or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        raise ValueError(
            "W&B has no key here, or is offline: `wandb login` first, or search on this machine, "
            "without WANDB=1 (--by_wandb)."
        )
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    sweep_id = wandb.sweep(space.content, project=project)
    path = "/".join(filter(None, [os.environ.get("WANDB_ENTITY"), project, sweep_id]))
    print(f"Start as many agents as you like: make agent SWEEP={path} DATA=… RUN=…")
