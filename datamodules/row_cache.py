"""Keep expensive rows of equal shape in one float16 memmap, each built once for its content.

A folder holds the rows of one recipe. `<name>.npy` has the rows of one list of keys and
`<name>.json` its index; the index is written last, so that a file without one does not count.
Files never change once they are there: another list of keys makes another file, and takes over
whatever rows its folder already has.
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

Facts = dict[str, Any]


def digest(*parts: object) -> str:
    """Hash JSON-able values to 24 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def unfinished_path(path: Path) -> Path:
    """Where this process alone writes what gets the name `path` once it is whole."""
    return path.with_suffix(f".{platform.node()}.{os.getpid()}.tmp")


def cached_rows(
    folder: Path,
    keys: Sequence[str],
    row_shape: tuple[int, ...],
    build_row: Callable[[int], tuple[np.ndarray, Facts]],
    *,
    what: str,
) -> tuple[np.memmap, list[Facts]]:
    """Return one row per key, building those that the folder does not hold yet.

    Args:
        folder: Folder of the recipe; everything but the keys that decides a row is in its name.
        keys: Content of each row, as a hash.
        row_shape: Shape of a row.
        build_row: Makes the row at a position of `keys`, with small facts for the index.
        what: What a row is, for the progress bar.

    Returns:
        A read-only memmap of shape (len(keys), *row_shape), and the facts of each row.
    """
    name = digest(list(keys), row_shape)
    array_path, index_path = folder / f"{name}.npy", folder / f"{name}.json"
    if not index_path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        _build(array_path, index_path, keys, row_shape, build_row, what)
    rows = _open(array_path)
    assert rows.shape == (len(keys), *row_shape), f"{array_path} does not match its index"
    return rows, json.loads(index_path.read_text())["facts"]


def _open(array_path: Path) -> np.memmap:
    try:
        return np.load(array_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Cache file {array_path} cannot be read: it is torn or not safe. Delete it."
        ) from error


def _build(
    array_path: Path,
    index_path: Path,
    keys: Sequence[str],
    row_shape: tuple[int, ...],
    build_row: Callable[[int], tuple[np.ndarray, Facts]],
    what: str,
) -> None:
    known = _rows_of_other_files(array_path.parent, row_shape)
    facts: list[Facts] = []
    unfinished = unfinished_path(array_path)
    try:
        rows = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=np.float16, shape=(len(keys), *row_shape)
        )
        _take_room(unfinished)
        num_new = sum(key not in known for key in keys)
        pause = 0.5 if sys.stderr.isatty() else 30  # in a log file, a line now and then
        title = f"Cache: {what}"
        with tqdm(total=num_new, desc=title, disable=not num_new, mininterval=pause) as bar:
            for position, key in enumerate(keys):
                if key in known:
                    source, source_row, fact = known[key]
                    rows[position] = _open(source)[source_row]
                else:
                    rows[position], fact = build_row(position)
                    bar.update()
                facts.append(fact)
        rows.flush()
        del rows
        os.replace(unfinished, array_path)
        unfinished.write_text(json.dumps({"keys": list(keys), "facts": facts}))
        os.replace(unfinished, index_path)
    finally:
        unfinished.unlink(missing_ok=True)


def _take_room(path: Path) -> None:
    """Claim the blocks of a sparse file: a full disk is an error here, but a crash in a memmap."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def _rows_of_other_files(
    folder: Path, row_shape: tuple[int, ...]
) -> dict[str, tuple[Path, int, Facts]]:
    known = {}
    for index_path in sorted(folder.glob("*.json")):
        index = json.loads(index_path.read_text())
        array_path = index_path.with_suffix(".npy")
        if not array_path.is_file() or _open(array_path).shape[1:] != row_shape:
            continue
        for row, (key, fact) in enumerate(zip(index["keys"], index["facts"], strict=True)):
            known[key] = (array_path, row, fact)
    return known


def _remove_leftovers(folder: Path) -> None:
    """Delete what builds that were killed more than a day ago have left."""
    for leftover in folder.glob("*.tmp"):
        if time.time() - leftover.stat().st_mtime > 86_400:
            leftover.unlink(missing_ok=True)
