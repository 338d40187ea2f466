"""Measure several ways to do the same work in turns, so that a busy machine is unfair to none."""

import math
import time
from collections.abc import Callable, Mapping

import numpy as np

Rates = dict[str, np.ndarray]


class TimeUpError(Exception):
    """The time of a section is up."""


def take_turns(
    ways: Mapping[str, Callable[[], int]], num_rounds: int, until: float = math.inf
) -> Rates:
    """Run every way once in each round, after a round that does not count.

    Args:
        ways: Each does its work and returns how many items that were.
        num_rounds: Rounds that count, if there is time for them.
        until: No round but the first begins that would end later, in `time.monotonic` seconds.

    Returns:
        Items per second of each way in each round, (rounds,).
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds + 1):
        begun = time.monotonic()
        for name, work in ways.items():
            started = time.perf_counter()
            num_items = work()
            seconds = time.perf_counter() - started
            if number:
                rates[name].append(num_items / seconds)
        now = time.monotonic()
        if number and now + (now - begun) > until:
            break
    return {name: np.array(values) for name, values in rates.items()}


def ratio(rates: Rates, name: str, reference: str) -> str:
    """How many times as fast, round by round: median (lowest to highest)."""
    ratios = rates[name] / rates[reference]
    return f"{_short(np.median(ratios))} ({_short(ratios.min())}–{_short(ratios.max())})"


def table(rates: Rates, unit: str, reference: str) -> list[str]:
    """Lines of a Markdown table: the rate of each way, and its ratio to the reference."""
    num_rounds = len(rates[reference])
    lines = [f"| | {unit}, median of {num_rounds} (range) | × {reference} |", "|---|---|---|"]
    for name, values in rates.items():
        spread = f"{_short(values.min())}–{_short(values.max())}"
        times = "1" if name == reference else ratio(rates, name, reference)
        lines.append(f"| {name} | {_short(np.median(values))} ({spread}) | {times} |")
    return lines


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
