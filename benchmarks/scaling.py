"""How time and memory grow with the number of scans, their size, and the number of folds."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cohort import as_it_is, write_cohort
from benchmarks.rounds import TimeUpError

TINY = 16
HOW = "from the table to the end of the first epoch, cold cache, one process for each."


def scans(folder: Path, until: float, *, numbers: Sequence[int]) -> Iterator[str]:
    """Open cohorts of more and more scans; give lines of Markdown."""
    totals: list[float] = []
    peaks: list[float] = []
    for number in _affordable(numbers, until):
        found = _in_own_process(folder, number, TINY)
        if not totals:
            yield f"Cohorts of {TINY}³ scans; {HOW}"
            yield from ("", *_head("scans", found))
        yield _row(number, found)
        totals.append(sum(found["seconds"].values()))
        peaks.append(found["peak_mb"])
    yield ""
    if len(totals) > 2:
        fit = np.corrcoef(numbers[: len(totals)], totals)[0, 1] ** 2
        yield f"Time against number: R² = {fit:.4f}. "
    yield f"Largest peak / smallest peak of the process: {max(peaks) / min(peaks):.2f}."


def sizes(folder: Path, until: float, *, numbers: Sequence[int]) -> Iterator[str]:
    """Open cohorts of larger and larger scans; give lines of Markdown."""
    for number in _affordable(numbers, until):
        found = _in_own_process(folder, 8, number)
        if number == numbers[0]:
            yield f"Cohorts of eight scans; {HOW}"
            yield from ("", *_head("voxels along an axis", found))
        yield _row(number, found)


def folds(folder: Path, until: float, *, numbers: Sequence[int]) -> Iterator[str]:
    """Cross-validate with more and more folds; give lines of Markdown."""
    from benchmarks.start_up import TINY as SETTINGS
    from main import main

    cohort = write_cohort(folder / "folds", 24, TINY)
    for place, number in enumerate((numbers[0], *numbers)):
        settings = [f"--data.table={cohort}", f"--data.cache_dir={folder / 'cache'}", *SETTINGS]
        settings += [f"--data.splits.num_folds={number}", f"--run={folder / f'folds{place}'}"]
        started = time.perf_counter()
        code = main(["finetune", "-cconfigs/finetune.yaml", *settings, "--trainer.max_epochs=5"])
        assert code == 0
        seconds = time.perf_counter() - started
        if place == 1:  # the first time counts for nothing
            yield from ("| folds | seconds | seconds a fold |", "|---|---|---|")
        if place:
            yield f"| {number} | {seconds:.1f} | {seconds / number:.2f} |"


def _affordable(numbers: Sequence[int], until: float) -> Iterator[int]:
    """Give numbers as long as there is time for the next, by what the last one took."""
    seconds_each = 0.0
    for number in numbers:
        begun = time.monotonic()
        if begun + seconds_each * number > until:
            raise TimeUpError
        yield number
        seconds_each = (time.monotonic() - begun) / number


def _head(what: str, found: dict[str, Any]) -> tuple[str, str]:
    steps = list(found["seconds"])
    names = f"| {what} | {', s | '.join(steps)}, s | peak memory, MB |"
    return names, "|---" * (len(steps) + 2) + "|"


def _row(number: int, found: dict[str, Any]) -> str:
    seconds = " | ".join(f"{value:.2f}" for value in found["seconds"].values())
    return f"| {number:,} | {seconds} | {found['peak_mb']:,.0f} |"


def _in_own_process(folder: Path, num_scans: int, size: int) -> dict[str, Any]:
    table = write_cohort(folder / f"{num_scans}x{size}", num_scans, size, ".nii")
    command = [sys.executable, "-m", "benchmarks.scaling", str(table), str(size)]
    root = Path(__file__).parents[1]
    ended = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    return json.loads(ended.stdout)


def open_cohort(table: Path, size: int) -> dict[str, Any]:
    """Go from a table to the end of the first epoch; return how long each part took."""
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
    timed("folds and fingerprints", lambda: (module.setup("fit"), module.state_dict()))
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
