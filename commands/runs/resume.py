"""Where an interrupted fold run continues: at its newest checkpoint that can be read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from callbacks.whole_checkpoints import BEST_NAME, LAST_NAME, PREVIOUS_NAME
from files.whole_file import remove_leftovers
from lightning_modules.transfer import read_checkpoint


def resume_point(folder: Path, say: Callable[[str], None], *, tidy: bool = True) -> Path | None:
    """Choose the checkpoint to continue from; None starts from the beginning.

    Args:
        folder: Folder of the fold run.
        say: Told which file is skipped, and why.
        tidy: Whether this process puts unreadable files aside, and deletes half-written ones.
    """
    if tidy:
        remove_leftovers(folder)
    found = [path for name in (LAST_NAME, PREVIOUS_NAME) if (path := folder / name).is_file()]
    for path in found:
        try:
            best_epoch = _best_epoch(read_checkpoint(path))
        except ValueError as error:
            say(f"warning: {error} It is skipped.")
            _set_aside(path, tidy)
            continue
        if best_epoch >= 0 and (fault := _fault_of_best(folder, best_epoch)):
            say(f"warning: {fault} {folder.name} starts again.")
            for name in (BEST_NAME, LAST_NAME, PREVIOUS_NAME):
                _set_aside(folder / name, tidy)
            return None
        say(f"{folder.name} continues from {path}.")
        return path
    if found:
        say(f"warning: {folder.name} has no checkpoint that can be read: it starts again.")
    return None


def forget_progress(folder: Path) -> None:
    """Delete what only an interrupted fold run needs."""
    for name in (LAST_NAME, PREVIOUS_NAME, "*.unreadable"):
        for path in folder.glob(name):
            path.unlink(missing_ok=True)


def _fault_of_best(folder: Path, best_epoch: int) -> str | None:
    """Why best.ckpt does not hold the epoch that was best before the checkpoint, if so.

    A later epoch is fine: it comes again, and is the same.
    """
    try:
        epoch = read_checkpoint(folder / BEST_NAME)["epoch"]
    except ValueError as error:
        return str(error)
    if epoch < best_epoch:
        return f"{folder / BEST_NAME} is of epoch {epoch}, but the best was {best_epoch}."
    return None


def _best_epoch(checkpoint: dict[str, Any]) -> int:
    states = checkpoint.get("callbacks", {}).values()
    return max((state["best_epoch"] for state in states if "best_epoch" in state), default=-1)


def _set_aside(path: Path, tidy: bool) -> None:
    if tidy and path.is_file():
        os.replace(path, path.with_suffix(".unreadable"))
