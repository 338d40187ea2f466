"""The learning curves of a run, from the files of its loggers."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd

from commands.runs.run_folder import Cell


def learning_curves(cells: Sequence[Cell]) -> pd.DataFrame:
    """Collect what the CSV loggers wrote: columns cell, epoch and the logged names."""
    curves = []
    for cell in cells:
        # a continued cell has a file more; the epochs that both have are the same, or torn there
        paths = sorted(cell.folder.glob("logs/*/metrics.csv"), key=_version)
        parts = [part for path in paths if not (part := _whole_lines(path)).empty]
        epochs = pd.concat(parts).groupby("epoch", as_index=False).last()
        curves.append(epochs.assign(cell=cell.folder.name))
    return pd.concat(curves, ignore_index=True)


def _version(metrics_path: Path) -> int:
    return int(metrics_path.parent.name.removeprefix("version_"))


def _whole_lines(path: Path) -> pd.DataFrame:
    """Read a CSV whose writer may have been killed."""
    lines, _, _torn = path.read_text().rpartition("\n")
    return pd.read_csv(StringIO(lines)) if lines else pd.DataFrame()
