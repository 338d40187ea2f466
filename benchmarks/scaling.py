"""How time and memory grow with the number of scans, their size, and the number of folds."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cohort import as_it_is, write_cohort

TINY = 16


def measure(folder: Path, *, sizes: Sequence[int], num_scans: Sequence[int]) -> list[str]:
    """Open cohorts of growing number and size; return lines of Markdown."""
    grown = [_in_own_process(folder, number, TINY) for number in num_scans]
    larger = [_in_own_process(folder, 8, size) for size in sizes]
    seconds = [sum(each["seconds"].values()) for each in grown]
    peaks = [each["peak_mb"] for each in grown]
    fit = np.corrcoef(num_scans, seconds)[0, 1] ** 2 if len(num_scans) > 2 else float("nan")
    return [
        f"Cohorts of {TINY}³ scans, from the table to the end of the first epoch, cold cache, one "
        f"process for each number. Time against number: R² = {fit:.4f}; largest peak / smallest "
        f"peak of the process: {max(peaks) / min(peaks):.2f}.",
        "",
        *_table("scans", num_scans, grown),
        "",
        "Eight scans, by size:",
        "",
        *_table("voxels along an axis", sizes, larger),
    ]


def fold_times(folder: Path, num_folds: Sequence[int]) -> list[str]:
    """Cross-validate with ever more folds; return lines of Markdown."""
    from benchmarks.start_up import TINY as SETTINGS
    from main import main

    cohort = write_cohort(folder / "folds", 24, TINY)
    lines = ["| folds | seconds | seconds a fold |", "|---|---|---|"]
    for number in (num_folds[0], *num_folds):  # the first time counts for nothing
        settings = [f"--data.table={cohort}", f"--data.cache_dir={folder / 'cache'}", *SETTINGS]
        settings += [f"--data.splits.num_folds={number}", f"--run={folder / f'folds{time.time()}'}"]
        started = time.perf_counter()
        code = main(["finetune", "-cconfigs/finetune.yaml", *settings, "--trainer.max_epochs=5"])
        assert code == 0
        seconds = time.perf_counter() - started
        lines.append(f"| {number} | {seconds:.1f} | {seconds / number:.2f} |")
    return [*lines[:2], *lines[3:]]


def _table(what: str, numbers: Sequence[int], found: Sequence[dict[str, Any]]) -> list[str]:
    steps = list(found[0]["seconds"])
    lines = [f"| {what} | {', s | '.join(steps)}, s | peak memory, MB |"]
    lines.append("|---" * (len(steps) + 2) + "|")
    for number, each in zip(numbers, found, strict=True):
        seconds = " | ".join(f"{value:.2f}" for value in each["seconds"].values())
        lines.append(f"| {number:,} | {seconds} | {each['peak_mb']:,.0f} |")
    return lines


def _in_own_process(folder: Path, num_scans: int, size: int) -> dict[str, Any]:
    table = write_cohort(folder / f"{num_scans}x{size}", num_scans, size, ".nii")
    command = [sys.executable, "-m", "benchmarks.scaling", str(table), str(size)]
    root = Path(__file__).parents[1]
    ended = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    return json.loads(ended.stdout)


def open_cohort(table: Path, size: int) -> dict[str, Any]:
    """Go from a table to the end of the first epoch; say how long each part took."""
    from datamodules.augmentation import Augmentation
    from datamodules.scans import ScanDataModule
    from datamodules.splits import Splits

    module = ScanDataModule(
        str(table),
        preprocessing=as_it_is(size),
        augmentation=Augmentation(mode="fresh"),
        splits=Splits(num_folds=2, num_repeats=1),
        cache_dir=str(table.parent / "cache"),
    )
    seconds: dict[str, float] = {}

    def timed(name: str, work: Any) -> None:
        started = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - started

    timed("table", lambda: module.cohort.scans)
    timed("check", lambda: module.cohort.check(module.expectations))
    timed("cache", lambda: module.cohort.volumes)
    timed("folds and marks", lambda: (module.setup("fit"), module.state_dict()))
    timed(
        "epoch",
        lambda: [
            module.on_after_batch_transfer(batch, 0)["label"] for batch in module.train_dataloader()
        ],
    )
    return {"seconds": seconds, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """This process's own peak; `getrusage` would count that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peaks[0]) / 1024 if peaks else float("nan")


if __name__ == "__main__":
    print(json.dumps(open_cohort(Path(sys.argv[1]), int(sys.argv[2]))))
