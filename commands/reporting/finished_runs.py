"""Finished runs, read back by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from commands.runs.run_folder import read_json, run_path
from datamodules.splits import read_splits
from evaluation.predictions import read_predictions


@dataclass(frozen=True)
class Result:
    """What a finished run left behind."""

    folder: Path
    predictions: pd.DataFrame
    splits: pd.DataFrame
    facts: dict[str, Any]
    protocol: str


def read_results(names: list[str]) -> dict[str, Result]:
    """Read finished runs, by name; a folder of runs stands for each of them.

    Raises:
        ValueError: If one is missing, not finished, or named twice.
    """
    folders = [folder for name in names for folder in _run_folders(run_path(name))]
    short = [folder.name for folder in folders]
    results = {}
    for folder in folders:
        unique = short.count(folder.name) == 1
        name = folder.name if unique else f"{folder.parent.name}/{folder.name}"
        if name in results:
            raise ValueError(f"Run {folder} is named twice in RUNS.")
        results[name] = Result(
            folder,
            read_predictions(folder / "predictions.csv"),
            read_splits(folder),
            read_json(folder / "run.json"),
            read_json(folder / "metrics.json")["protocol"],
        )
    return results


def _run_folders(path: Path) -> list[Path]:
    if (path / "predictions.csv").is_file():
        return [path]
    if (path / "splits.csv").is_file():
        raise ValueError(f"Run {path} is not finished: give its command again.")
    inside = sorted(splits.parent for splits in path.glob("*/splits.csv"))
    if not inside:
        raise ValueError(f"There is no run in {path}. Run `make finetune RUN={path.name}` first.")
    return [folder for sub_run in inside for folder in _run_folders(sub_run)]
