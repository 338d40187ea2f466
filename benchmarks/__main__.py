"""`python -m benchmarks`: measure this machine and write it into docs/benchmarks.md."""

import argparse
import contextlib
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import main as command_line
from benchmarks import data_path, epochs, gpu, scaling, start_up, training_step
from benchmarks.rounds import TimeUpError

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PACKAGES = ("torch", "lightning", "torchio", "monai", "numpy", "SimpleITK")

Section = Callable[[Path, float], Iterator[str]]  # a folder, and when its time is up


def sections(quick: bool) -> dict[str, Section]:
    """What `make bench` measures, in order; quick only checks that all of it works."""
    rounds, scans = (1, 8) if quick else (5, 24)
    size, small = (32, 16) if quick else (96, 64)
    cubes: dict[str, Any] = {"size": size, "num_scans": scans, "num_rounds": rounds}
    return {
        "A training step": partial(
            training_step.measure, num_rounds=rounds, flops_a_turn=1e9 if quick else 1.5e10
        ),
        f"Volumes, {size}³": partial(data_path.volumes, **cubes),
        f"Patches out of {size}³": partial(data_path.patches, **cubes),
        "An epoch of training": partial(
            epochs.measure, size=small, num_scans=scans, num_rounds=min(rounds, 3)
        ),
        "Start": partial(start_up.measure, num_rounds=1 if quick else 2),
        "Number of folds": partial(scaling.folds, numbers=(2,) if quick else (2, 4, 8)),
        "Size of scans": partial(scaling.sizes, numbers=(16, 32) if quick else (32, 64, 96, 128)),
        "Number of scans": partial(
            scaling.scans, numbers=(8, 16) if quick else (100, 1000, 3000, 10_000)
        ),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="measure training on the GPU instead")
    parser.add_argument("--budget", type=float, default=8.0, help="minutes for all of it")
    parser.add_argument(
        "--quick", action="store_true", help="check that it works; figures mean nothing"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="Markdown file to write into")
    options = parser.parse_args(arguments)
    if options.gpu and not torch.cuda.is_available():
        print("error: There is no CUDA device; `make bench` measures the CPU.", file=sys.stderr)
        return 2
    if options.budget <= 0:
        print(f"error: BUDGET is {options.budget:g} minutes: give more than 0.", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    command_line._keep_freed_memory()  # as main.py does
    started = time.monotonic() - time.process_time()  # the imports count as well
    chosen = sections(options.quick)
    if options.gpu:
        chosen = {"Training on a GPU": partial(gpu.measure, device="cuda")}

    machine = hardware()

    def write(lines: list[str]) -> None:
        minutes = (time.monotonic() - started) / 60
        text = [machine, "", *lines, f"{minutes:.1f} of {options.budget:g} minutes."]
        write_section(options.page, "make bench GPU=1" if options.gpu else "make bench", text)

    with TemporaryDirectory() as folder:
        until = started + 60 * options.budget
        for lines in measured(chosen, Path(folder), until):
            write(lines)
    print("\n".join(lines))
    return 0


def measured(chosen: dict[str, Section], folder: Path, until: float) -> Iterator[list[str]]:
    """Give all lines so far after each section, and which sections had too little time.

    A section gets an equal part of the time that is left, so that a slow one costs no other one.
    """
    lines: list[str] = []
    cut = []
    for place, (title, section) in enumerate(chosen.items()):
        left = until - time.monotonic()
        print(f"{title} …", file=sys.stderr, flush=True)
        own, is_whole = _within(max(left, 0.01) / (len(chosen) - place), section, folder)
        lines += [f"### {title}", "", *own, ""] if own else []
        if not is_whole:
            cut.append(f"{title} ({'in part' if own else 'nothing'})")
        waiting = [*chosen][place + 1 :]
        note = f"Left out, the time was up: {', '.join(cut)}." if cut else "Nothing is left out."
        still = f" Not measured yet: {', '.join(waiting)}." if waiting else ""
        yield [*lines, note + still]


def _within(seconds: float, section: Section, folder: Path) -> tuple[list[str], bool]:
    """Lines that a section gave in its time, and whether that was all of it."""

    def stop(*_: Any) -> None:
        raise TimeUpError

    lines: list[str] = []
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for line in section(folder, time.monotonic() + seconds):
                lines.append(line)
    except TimeUpError:
        return lines, False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return lines, True


def hardware() -> str:
    """One line on date, machine and versions."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{time.strftime('%d %B %Y')}, {cpu}, {len(os.sched_getaffinity(0))} cores, "
        f"{torch.get_num_threads()} threads{device}, load {load:.1f} at the start; Python "
        f"{platform.python_version()}, {versions}. Ways are measured in turns; ratios are those of "
        "the rounds, with their range."
    )


def write_section(page: Path, command: str, lines: list[str]) -> None:
    """Put the lines between the command's two comments, at the end where there are none yet."""
    begin, end = f"<!-- {command}: begin -->", f"<!-- {command}: end -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Benchmarks\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2] if rest else "\n"
    section = [begin, f"## `{command}`", "", *lines, end]
    page.write_text(before.rstrip() + "\n\n" + "\n".join(section) + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
