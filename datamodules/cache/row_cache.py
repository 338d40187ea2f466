"""Keep expensive rows of equal shape in one memmap, each built once for its content.

A folder holds the rows of one recipe. `<name>.npy` has the rows of one list of keys and
`<name>.json` its index; the index is written last, so that a file without one does not count.
Files never change once they are there: another list of keys makes another file, and takes over
whatever rows its folder already has. So does a build that follows one that was killed: each
process writes into a `.tmp` of its own, and every few seconds notes in a `.rows` next to it which
rows are there.
"""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datamodules.batches.workers import in_order
from files.hashes import digest
from files.open_files import refuse_too_many
from files.whole_file import remove_leftovers

Facts = dict[str, Any]
BuildRow = Callable[[int], tuple[np.ndarray, Facts]]
KnownRow = tuple[Path | np.memmap, int, Facts]  # an unfinished file is open: it changes its name
MOST_OPEN = 16  # finished files at a time
SECONDS_BETWEEN_NOTES = 5.0  # what a killed build loses at most


def cached_rows(
    folder: Path,
    keys: Sequence[str],
    row_shape: tuple[int, ...],
    build_row: BuildRow,
    *,
    what: str,
    num_workers: int = 1,
    dtype: type[np.floating] = np.float16,
) -> tuple[np.memmap, list[Facts]]:
    """Return one row per key, building those that the folder does not hold yet.

    Args:
        folder: Folder of the recipe; everything but the keys that decides a row is in its name.
        keys: Content of each row, as a hash.
        row_shape: Shape of a row.
        build_row: Makes the row at a position of `keys`, with small facts for the index.
        what: What a row is, for the progress bar.
        num_workers: Processes that build rows, at most; with more than one, `build_row` must be
            picklable.
        dtype: How rows are stored.

    Returns:
        A read-only memmap of shape (len(keys), *row_shape), and the facts of each row.
    """
    name = digest(list(keys), row_shape)
    array_path, index_path = folder / f"{name}.npy", folder / f"{name}.json"
    if not index_path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _build(array_path, index_path, keys, row_shape, build_row, num_workers, what, dtype)
    rows = _open(array_path)
    assert rows.shape == (len(keys), *row_shape), f"{array_path} does not match its index"
    return rows, json.loads(index_path.read_text())["facts"]


def _open(array_path: Path) -> np.memmap:
    try:
        return np.load(array_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        refuse_too_many(error)
        raise ValueError(
            f"Cache file {array_path} cannot be read: it is corrupt or not safe. Delete it."
        ) from error


def _build(
    array_path: Path,
    index_path: Path,
    keys: Sequence[str],
    row_shape: tuple[int, ...],
    build_row: BuildRow,
    num_workers: int,
    what: str,
    dtype: type[np.floating],
) -> None:
    folder = array_path.parent
    known = _finished_rows(folder, set(keys), row_shape) | _noted_rows(folder, row_shape)
    open_rows = lru_cache(MOST_OPEN)(_open)
    todo = [position for position, key in enumerate(keys) if key not in known]
    built = in_order(build_row, todo, num_workers)
    own = f"{array_path.stem}.{time.monotonic_ns()}.{platform.node()}.{os.getpid()}"
    unfinished, notes = folder / f"{own}.tmp", folder / f"{own}.rows"
    rows = np.lib.format.open_memmap(
        unfinished, mode="w+", dtype=dtype, shape=(len(keys), *row_shape)
    )
    _take_room(unfinished)
    facts: list[Facts] = []
    num_noted, noted_at = 0, time.monotonic()

    def note() -> None:
        """Write down which rows are there, so that a build that is killed can be continued."""
        nonlocal num_noted, noted_at
        rows.flush()
        with notes.open("a") as file:
            for position in range(num_noted, len(facts)):
                file.write(json.dumps([keys[position], facts[position]]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        num_noted, noted_at = len(facts), time.monotonic()

    pause = 0.5 if sys.stderr.isatty() else 30  # in a log file, a line now and then
    bar = tqdm(total=len(todo), desc=f"Cache: {what}", disable=not todo, mininterval=pause)
    try:
        for position, key in enumerate(keys):
            if key in known:
                source, row, fact = known[key]
                rows[position] = (open_rows(source) if isinstance(source, Path) else source)[row]
            else:
                rows[position], fact = next(built)
                bar.update()
            facts.append(fact)
            if time.monotonic() - noted_at > SECONDS_BETWEEN_NOTES:
                note()
    except BaseException:
        note()
        raise
    finally:
        bar.close()
        built.close()
    rows.flush()
    del rows
    os.replace(unfinished, array_path)
    unfinished.write_text(json.dumps({"keys": list(keys), "facts": facts}))
    os.replace(unfinished, index_path)
    notes.unlink(missing_ok=True)
    remove_leftovers(folder)
    remove_leftovers(folder, "*.rows")


def _take_room(path: Path) -> None:
    """Claim the blocks of a sparse file: a full disk is an error here, but a crash in a memmap."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink()
        raise


def _finished_rows(
    folder: Path, wanted: set[str], row_shape: tuple[int, ...]
) -> dict[str, KnownRow]:
    """Where the wanted rows are; a folder may have more files than a process may open."""
    known: dict[str, KnownRow] = {}
    for index_path in sorted(folder.glob("*.json")):
        index = json.loads(index_path.read_text())
        array_path = index_path.with_suffix(".npy")
        here = [row for row, key in enumerate(index["keys"]) if key in wanted - known.keys()]
        if here and array_path.is_file() and _open(array_path).shape[1:] == row_shape:
            known |= {index["keys"][row]: (array_path, row, index["facts"][row]) for row in here}
    return known


def _noted_rows(folder: Path, row_shape: tuple[int, ...]) -> dict[str, KnownRow]:
    """Rows of builds that were killed, or that another process is busy with."""
    known: dict[str, KnownRow] = {}
    for notes in sorted(folder.glob("*.rows")):
        array_path = notes.with_suffix(".tmp")
        with contextlib.suppress(OSError, ValueError, EOFError):  # just finished, or corrupt
            rows = np.load(array_path, mmap_mode="r", allow_pickle=False)
            if rows.shape[1:] != row_shape:
                continue
            for row, line in enumerate(notes.read_text().splitlines()):
                key, fact = json.loads(line)
                known[key] = (rows, row, fact)
    return known
