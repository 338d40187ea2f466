"""Write a file whole or not at all, also when the process is killed or others write it as well."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAY_S = 86_400


@contextmanager
def whole_file(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Give a path to write to; when the block ends, the file goes to the disk and gets its name.

    Args:
        path: The final name. Its folder must exist.
        keep: Name that a file which is there already gets first. At every instant one of the two
            names has a whole file, if one had before.
    """
    unfinished = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        yield unfinished
        _to_disk(unfinished)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(unfinished, path)
        _to_disk(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(text: str, path: Path) -> None:
    """Write a text whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_first(text: str, path: Path) -> None:
    """Write a text whole, unless the file is there: of several processes the first one wins."""
    draft = path.with_name(f"{path.name}.first.{platform.node()}.{os.getpid()}.tmp")
    write_whole(text, draft)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(draft, path)
    draft.unlink(missing_ok=True)


def remove_leftovers(folder: Path, pattern: str = "*.tmp") -> None:
    """Delete what processes left that were killed while they wrote, on this machine or long ago.

    Args:
        folder: Where they wrote.
        pattern: Which files; their names end in machine, process and suffix.
    """
    for leftover in folder.glob(pattern):
        with suppress(OSError, ValueError):  # another process deletes them as well
            place, _, pid = leftover.stem.rpartition(".")
            is_ours = place.endswith(f".{platform.node()}")
            is_old = time.time() - leftover.stat().st_mtime > DAY_S
            if is_old or (is_ours and is_gone(int(pid))):
                leftover.unlink()


def is_gone(process: int) -> bool:
    """Whether no process of this machine has that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return False


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
