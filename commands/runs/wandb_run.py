"""One Weights & Biases run per cross-validation: never a prompt, never a wait for a network."""

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from callbacks.stop_signals import SAVED, Stopped
from commands.runs.main_process import is_main_process
from commands.runs.prepare import Run

PROJECT = "mctl"
INIT_TIMEOUT_S = 20
SERVICE_TIMEOUT_S = 300  # for a process of W&B's own to start, on a machine that is busy
PRIVATE = ("table", "init", "init_ckpt", "path", "splits_path", "cache_dir", "run", "config")


@contextmanager
def wandb_run(of: Run, *, wanted: bool) -> Iterator[Any]:
    """Keep one W&B run open; None where there is nothing to log or another process does it.

    Args:
        of: The run that it logs.
        wanted: Whether there is anything to log.
    """
    run = None
    if wanted and is_main_process():
        run = start_wandb(of.config.wandb, of.folder, of.settings)
        if run is not None:
            run.define_metric("folds")
            run.define_metric("cv/*", step_metric="folds")
    try:
        yield run
    except Stopped as stop:
        if run is not None:
            if stop.code == SAVED:
                run.mark_preempting()  # a sweep then gives its setting again
            run.finish(exit_code=stop.code)
        raise
    if run is not None:
        run.finish()


def start_wandb(mode: Any, folder: Path, config: dict[str, Any]) -> Any:
    """Start the run, or return None if W&B is disabled.

    Args:
        mode: 'auto', 'online', 'offline' or 'disabled'; WANDB_MODE decides for 'auto' where set.
        folder: Folder of the run; W&B keeps its files below it.
        config: The resolved configuration; paths are left out of what is sent.
    """
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    if mode == "disabled":
        return None
    import wandb  # half a second, not needed where it is disabled

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        x_service_wait=SERVICE_TIMEOUT_S,
        init_timeout=INIT_TIMEOUT_S,
        login_timeout=INIT_TIMEOUT_S,
    )
    arguments: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "name": folder.name,
        "dir": str(folder),
        "config": _without_paths(config),
        "settings": settings,
    }
    try:
        return wandb.init(mode=mode, **arguments)
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        if mode == "offline":
            raise
        print(f"W&B cannot be reached ({error}); logging offline, `wandb sync` sends it later.")
        return wandb.init(mode="offline", **arguments)


def has_key() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _without_paths(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_paths(value) for key, value in config.items() if key not in PRIVATE}
    return config
