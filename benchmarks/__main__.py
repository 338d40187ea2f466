"""`python -m benchmarks`: measure this machine and write it into docs/benchmarks.md."""

import argparse
import contextlib
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import main as command_line
from benchmarks import data_path, epochs, frozen, gpu, scaling, start_up, training_step

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PACKAGES = ("torch", "lightning", "torchio", "monai", "numpy", "SimpleITK")

Story = tuple[str, Callable[[Path], list[str]]]


def stories(quick: bool) -> list[Story]:
    """What `make bench` tells, in order; quick only sees that all of it works."""
    rounds = 1 if quick else 5
    scans = 8 if quick else 24
    return [
        (
            "Data, 96³" if not quick else "Data, 32³",
            lambda folder: data_path.measure(
                folder, size=32 if quick else 96, num_scans=scans, num_rounds=rounds
            ),
        ),
        (
            "An epoch of training",
            lambda folder: epochs.measure(
                folder, size=16 if quick else 64, num_scans=scans, num_rounds=min(rounds, 3)
            ),
        ),
        ("A training step", lambda _: training_step.measure(rounds, 1e9 if quick else 3e10)),
        (
            "Heads on a frozen encoder",
            lambda _: frozen.tables(["16x16x16"] if quick else ["24x48x16", "64x64x64"]),
        ),
        (
            "Number of scans",
            lambda folder: scaling.measure(
                folder,
                sizes=(16, 32) if quick else (32, 64, 96, 128),
                num_scans=(8, 16) if quick else (100, 1000, 3000, 10_000),
            ),
        ),
        (
            "Number of folds",
            lambda folder: scaling.fold_times(folder, (2,) if quick else (2, 4, 8)),
        ),
        ("Start", lambda folder: start_up.measure(folder, 1 if quick else 2)),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="measure training on the GPU instead")
    parser.add_argument(
        "--quick", action="store_true", help="see that it works; figures mean nothing"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="Markdown file to write into")
    options = parser.parse_args(arguments)
    if options.gpu and not torch.cuda.is_available():
        print("error: There is no CUDA device; `make bench` measures the CPU.", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    command_line._keep_freed_memory()  # as main.py does
    started = time.monotonic()
    told: list[Story] = stories(options.quick)
    if options.gpu:
        told = [("Training on a GPU", lambda folder: gpu.measure(folder, device="cuda"))]
    lines = [hardware(), ""]
    with TemporaryDirectory() as folder:
        for title, story in told:
            print(f"{title} …", file=sys.stderr, flush=True)
            with contextlib.redirect_stdout(sys.stderr):
                lines += [f"### {title}", "", *story(Path(folder)), ""]
    lines.append(f"All of it took {(time.monotonic() - started) / 60:.1f} minutes.")
    print("\n".join(lines))
    write_section(options.page, "make bench-gpu" if options.gpu else "make bench", lines)
    return 0


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
    """Put the lines between the command's two marks, at the end where there are none yet."""
    begin, end = f"<!-- {command}: begin -->", f"<!-- {command}: end -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Benchmarks\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2] if rest else "\n"
    section = [begin, f"## `{command}`", "", *lines, end]
    page.write_text(before.rstrip() + "\n\n" + "\n".join(section) + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
