"""`sweep`: search among the settings of a sweep file, on this machine or by W&B's server."""

import os

import wandb

from commands.grid import conclude, launch, parse_known
from commands.runs.run_path import run_path
from commands.sweeps.sweep_file import read_sweep, setting_name
from commands.sweeps.sweep_table import PRUNED_NAME, read_settings, write_sweep_table
from commands.training.wandb_run import PROJECT, has_key


def sweep(args: list[str]) -> None:
    """Search here, with any number of workers, or create the sweep that agents then ask.

    The table of results is written from the folders, also of what agents have trained here.

    Raises:
        ValueError: If W&B shall search, and no key is known.
    """
    names = ("sweep", "run", "workers", "retry_failed", "local", "table")
    options, arguments = parse_known("sweep", args, *names)
    space = read_sweep(options.sweep)
    folder = run_path(options.run or "sweep")
    if options.table:
        print(write_sweep_table(space, folder))
        return
    if not options.local:
        if not has_key() or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
            raise ValueError(
                "W&B has no key here, or is offline: `wandb login` first, or search on this "
                "machine with LOCAL=1 (--local=true)."
            )
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        sweep_id = wandb.sweep(space.content, project=project)
        entity = os.environ.get("WANDB_ENTITY")
        path = "/".join(filter(None, [entity, project, sweep_id]))
        print(f"Start as many agents as you like: make agent SWEEP={path} DATA=… RUN=…")
        return
    launch(space, folder, options, arguments)
    if space.method == "grid":
        wanted = [setting_name(setting) for setting in space.settings()]
    else:
        tried = read_settings(folder)
        wanted = [place.name for place in tried if not (place / PRUNED_NAME).is_file()]
    conclude(space, folder, wanted)
