"""Worker processes for what takes long, started once it is clear that they pay."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")

SECONDS_WORTH_WORKERS = 20.0  # starting them takes as long as importing torch, twice
BYTES_OF_WORKER = 2 * 2**30  # what the largest scan allowed may take
WAITING = 64  # results that may wait in memory

_function: Callable[[int], Any]  # of a worker


def in_order(
    function: Callable[[int], T], positions: Sequence[int], num_workers: int
) -> Generator[T]:
    """Yield `function` of each position, in their order.

    Args:
        function: What to do; must be picklable if there may be workers.
        positions: What to do it for.
        num_workers: Worker processes at most; with 1 all is done in this process.
    """
    started, num_done = time.monotonic(), 0
    for position in positions:
        yield function(position)
        num_done += 1
        seconds = time.monotonic() - started
        left = seconds / num_done * (len(positions) - num_done)
        if num_workers > 1 and seconds > 1 and left > SECONDS_WORTH_WORKERS:
            break
    rest = positions[num_done:]
    if not rest:
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _begin, (function,)) as pool:
        for start in range(0, len(rest), WAITING):
            yield from pool.map(_call, rest[start : start + WAITING])


def usable_cores() -> int:
    """Cores that this process may use, fewer where memory is known to be short."""
    if hasattr(os, "sched_getaffinity"):  # less than the machine has, in a job of a cluster
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    if {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        cores = min(cores, free // BYTES_OF_WORKER)
    return max(cores, 1)


def _begin(function: Callable[[int], Any]) -> None:
    """Give a worker its task once, and keep it to its core."""
    global _function
    _function = function
    threadpool_limits(1)


def _call(position: int) -> Any:
    return _function(position)
