"""How long it takes until something happens, each time in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cohort import write_cohort
from benchmarks.rounds import take_turns

TINY = (
    "--data.preprocessing.spatial_shape=[16,16,16]",
    "--data.splits.num_repeats=1",
    "--data.augmentation.num_versions=2",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--model.filters=4",
    "--wandb=disabled",
)


def measure(folder: Path, until: float, *, num_rounds: int) -> Iterator[str]:
    """Time the start of Python, of the libraries and of our verbs; give lines of Markdown."""
    cohort = write_cohort(folder / "tiny", 12, 16)
    finetune = ["main.py", "finetune", "-cconfigs/finetune.yaml", f"--data.table={cohort}", *TINY]
    cache = f"--data.cache_dir={folder / 'cache'}"
    number = iter(range(10**6))

    def one_fold() -> int:
        return _run([*finetune, cache, "--fold=0", f"--run={folder / f'run{next(number)}'}"])

    ways = {
        "`python -c pass`": lambda: _run(["-c", "pass"]),
        "`python -c 'import torch'`": lambda: _run(["-c", "import torch"]),
        "`python -c 'import lightning'`": lambda: _run(["-c", "import lightning"]),
        "`main.py --help`": lambda: _run(["main.py", "--help"]),
        "`main.py finetune --help`": lambda: _run(["main.py", "finetune", "--help"]),
        "one fold, one epoch, 12 scans of 16³": one_fold,
    }
    for place, (name, work) in enumerate(ways.items()):
        seconds = sorted(1 / take_turns({name: work}, num_rounds, until)[name])
        yield from ("| | seconds, median (range) |", "|---|---|") if not place else ()
        middle = seconds[len(seconds) // 2]
        yield f"| {name} | {middle:.2f} ({seconds[0]:.2f}–{seconds[-1]:.2f}) |"


def _run(arguments: list[str]) -> int:
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, *arguments], cwd=root, check=True, capture_output=True)
    return 1
