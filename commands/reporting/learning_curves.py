"""The learning curves of a run, from the files of its loggers."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd

from commands.runs.run_folder import FoldRun


def learning_curves(folds: Sequence[FoldRun]) -> pd.DataFrame:
    """Collect what the CSV loggers wrote: columns fold_run, epoch and the logged names."""
    curves = []
    for fold_run in folds:
        # a continued fold run has a file more; epochs that both have are the same, or cut there
        paths = sorted(fold_run.folder.glob("logs/*/metrics.csv"), key=_version)
        parts = [part for path in paths if not (part := _whole_lines(path)).empty]
        epochs = pd.concat(parts).groupby("epoch", as_index=False).last()
        curves.append(epochs.assign(fold_run=fold_run.folder.name))
    return pd.concat(curves, ignore_index=True)


def _version(metrics_path: Path) -> int:
    return int(metrics_path.parent.name.removeprefix("version_"))


def _whole_lines(path: Path) -> pd.DataFrame:
    """Read a CSV whose writer may have been killed."""
    lines, _, _cut = path.read_text().rpartition("\n")
    return pd.read_csv(StringIO(lines)) if lines else pd.DataFrame()
