"""The results of a folder of settings: whoever trained them, a grid, a search or W&B's agents."""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from commands.sweeps.sweep_file import Sweep
from commands.sweeps.sweep_results import (
    FIGURES,
    best_first,
    draw_parallel_coordinates,
    write_sweep_report,
)
from evaluation.metrics import running_mean
from evaluation.predictions import read_predictions, write_table
from files.whole_file import write_whole

SETTING_NAME, FAILED_NAME, PRUNED_NAME = "setting.json", "failed.json", "pruned.json"


def is_gathered(folder: Path) -> bool:
    """Whether a setting's run is complete; the page is what it writes last."""
    return (folder / "report.html").is_file()


def failed(folder: Path) -> bool:
    """Whether the work in a folder has raised an error."""
    return (folder / FAILED_NAME).is_file()


def failures(folder: Path) -> list[str]:
    """One line for every part of a folder of settings that failed."""
    return [
        f"{path.parent.relative_to(folder)}: {json.loads(path.read_text())['error']}"
        for path in sorted(folder.glob("**/failed.json"))
    ]


def read_settings(folder: Path) -> dict[Path, dict[str, str]]:
    """The settings that have a folder, by their folder."""
    files = sorted(folder.glob(f"*/{SETTING_NAME}"))
    return {file.parent: json.loads(file.read_text()) for file in files}


def running_figures(folder: Path, num_folds: int | None = None) -> tuple[int, dict[str, float]]:
    """Measure a setting over the folds that are finished.

    Args:
        folder: Folder of the setting.
        num_folds: Take the first of them alone; None takes all.

    Returns:
        The number of folds, and the figures by name.
    """
    done = [file.parent for file in folder.glob("repeat*_fold*/finished.json")]
    done = sorted(done, key=lambda cell: [int(word) for word in re.findall(r"\d+", cell.name)])
    done = done[:num_folds]
    if not done:
        return 0, {}
    return len(done), _figures(tuple(done))


@lru_cache(maxsize=4096)
def _figures(done: tuple[Path, ...]) -> dict[str, float]:
    """Measure finished folds, once: they do not change any more."""
    tables = [read_predictions(cell / "predictions.csv") for cell in done]
    return running_mean(pd.concat(tables, ignore_index=True))


def write_sweep_table(sweep: Sweep, folder: Path) -> str:
    """Write results.csv, report.md and parallel_coordinates.png; say in a line what is best.

    Args:
        sweep: The sweep.
        folder: Folder of its settings.
    """
    rows = [_row(place, setting) for place, setting in read_settings(folder).items()]
    keys = list(sweep.parameters)
    table = pd.DataFrame(rows, columns=["name", "state", "folds", *FIGURES, *keys])
    table = best_first(table, sweep.measure, maximize=sweep.maximize)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(table, folder / "results.csv")
    drawn = draw_parallel_coordinates(
        table, keys, sweep.measure, folder / "parallel_coordinates.png"
    )
    report = write_sweep_report(
        table, keys, sweep.measure, sweep.method, failures(folder), has_picture=drawn
    )
    write_whole(report, folder / "report.md")
    finished = table[table["state"] == "finished"]
    if not len(finished):
        return f"No setting is finished yet. Table: {folder / 'results.csv'}"
    best = finished.iloc[0]
    return (
        f"Best of {len(finished)} finished settings: {best['name']}, {sweep.measure} "
        f"{best[sweep.measure]:.3f}; being the best of many it is optimistic. "
        f"Report: {folder / 'report.md'}"
    )


def _row(folder: Path, setting: dict[str, str]) -> dict[str, Any]:
    num_folds, figures = running_figures(folder)
    low = high = float("nan")
    if is_gathered(folder):
        state = "finished"
        metrics = json.loads((folder / "metrics.json").read_text())
        figures = metrics["mean"]
        low, high = metrics["interval_95"]["auroc"]
    elif (folder / PRUNED_NAME).is_file():
        state = "stopped early"
    else:
        state = "failed" if any(folder.glob("**/failed.json")) else "unfinished"
    facts = {"name": folder.name, "state": state, "folds": num_folds}
    return facts | figures | {"auroc_low": low, "auroc_high": high} | setting
