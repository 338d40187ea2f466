"""The tables of a run's folds, one below the other."""

from collections.abc import Sequence

import pandas as pd

from commands.runs.run_folder import FoldRun
from evaluation.predictions import read_predictions


def out_of_fold_predictions(fold_runs: Sequence[FoldRun]) -> pd.DataFrame:
    """Read what the folds predicted for their test parts."""
    return _read(fold_runs, "predictions.csv")


def validation_predictions(fold_runs: Sequence[FoldRun]) -> pd.DataFrame | None:
    """Read what the folds predicted for their validation parts; None where a fold has none."""
    complete = all((each.folder / "validation.csv").is_file() for each in fold_runs)
    return _read(fold_runs, "validation.csv") if complete else None


def _read(fold_runs: Sequence[FoldRun], name: str) -> pd.DataFrame:
    tables = [read_predictions(each.folder / name) for each in fold_runs]
    return pd.concat(tables, ignore_index=True)
