"""The results of a folder of settings, trained here or by W&B's agents: table, report, picture."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from commands.sweeps.sweep_file import SETTING_NAME, Sweep
from evaluation.predictions import read_predictions, write_table
from evaluation.regression import MEASURES
from evaluation.summary import running_figures as measured
from files.whole_file import write_whole

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FAILED_NAME, PRUNED_NAME = "failed.json", "pruned.json"
FIGURES = (
    *("auroc", "auroc_sd", "auroc_low", "auroc_high", "balanced_accuracy", "balanced_accuracy_sd"),
    *("accuracy", "sensitivity", "specificity"),
)
NUMBER_FIGURES = ("mae", "mae_sd", "mae_low", "mae_high", "r2", "r2_sd", "rmse", "r")
SHOWN_ROWS = 30
LOG_RATIO = 30.0  # an axis whose values span more is logarithmic


def is_finished(folder: Path) -> bool:
    """Whether a setting's run is complete; the page is what it writes last."""
    return (folder / "report.html").is_file()


def is_over(folder: Path) -> bool:
    """Whether a setting needs no more work: its run is finished, stopped early or failed."""
    stopped = (folder / name for name in (PRUNED_NAME, FAILED_NAME))
    return is_finished(folder) or any(file.is_file() for file in stopped)


def failures(folder: Path) -> list[str]:
    """One line for every setting that failed."""
    return [
        f"{words_of(setting)}: {json.loads(file.read_text())['error']} ({place / 'log.txt'})"
        for place, setting in read_settings(folder).items()
        if (file := place / FAILED_NAME).is_file()
    ]


def read_settings(folder: Path) -> dict[Path, dict[str, str]]:
    """The settings that have a folder, by their folder."""
    files = sorted(folder.glob(f"*/{SETTING_NAME}"))
    return {file.parent: json.loads(file.read_text()) for file in files}


def words_of(setting: Mapping[Any, Any], keys: Iterable[str] | None = None) -> str:
    """Write a setting by its values, or those of some keys."""
    values = {key: setting[key] for key in (setting.keys() if keys is None else keys)}
    return " ".join(f"{key}={value}" for key, value in values.items() if not pd.isna(value))


def finished_folds(folder: Path) -> list[Path]:
    """Folders of a setting's finished folds, in their order."""
    done = [file.parent for file in folder.glob("repeat*_fold*/finished.json")]
    return sorted(done, key=lambda fold: [int(word) for word in re.findall(r"\d+", fold.name)])


def has_folds_left(folder: Path) -> bool:
    """Whether a setting has folds to train."""
    splits = pd.read_csv(folder / "splits.csv", usecols=["repeat", "fold"])
    return len(finished_folds(folder)) < len(splits.drop_duplicates())


def running_figures(folds: Sequence[Path]) -> dict[str, float]:
    """Measure a setting over some finished folds."""
    if not folds:
        return {}
    return measured(pd.concat(map(_predictions, folds), ignore_index=True))


@lru_cache(maxsize=4096)
def _predictions(fold: Path) -> pd.DataFrame:
    return read_predictions(fold / "predictions.csv")


def finished_figures(folder: Path) -> dict[str, float | None]:
    """Figures of a finished setting: means, sd over repeats, interval; empty if it is not."""
    if not is_finished(folder):
        return {}
    metrics = json.loads((folder / "metrics.json").read_text())
    spread = {f"{name}_sd": sd for name, sd in metrics["sd"].items()}
    ends = {
        f"{name}_{end}": value
        for name in ("auroc", "mae")
        for end, value in zip(("low", "high"), metrics["interval_95"].get(name, ()), strict=False)
    }
    return metrics["mean"] | spread | ends


def sweep_table(sweep: Sweep, folder: Path) -> pd.DataFrame:
    """One row per setting: finished ones first, the best on top.

    Args:
        sweep: The sweep.
        folder: Folder of its settings.
    """
    rows = [_row(place, setting) for place, setting in read_settings(folder).items()]
    usual = NUMBER_FIGURES if sweep.measure in MEASURES else FIGURES
    figures = dict.fromkeys([*usual, sweep.measure, f"{sweep.measure}_sd"])
    columns = ["name", "state", "folds", *figures, *sweep.parameters]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(figures, float))
    order = table.assign(
        state=table["state"] != "finished",
        value=table[sweep.measure] * (-1 if sweep.maximize else 1),
    )
    order = order.sort_values(["state", "value", "name"])
    return table.loc[order.index].reset_index(drop=True)


def _row(folder: Path, setting: dict[str, str]) -> dict[str, Any]:
    folds, figures = finished_folds(folder), finished_figures(folder)
    state = "finished"
    if not figures:
        figures = {**running_figures(folds)}
        state = "failed" if (folder / FAILED_NAME).is_file() else "unfinished"
        state = "stopped early" if (folder / PRUNED_NAME).is_file() else state
    return {"name": folder.name, "state": state, "folds": len(folds)} | figures | setting


def write_sweep_table(sweep: Sweep, folder: Path) -> str:
    """Write results.csv, report.md and settings.png; return a line about the best setting.

    Args:
        sweep: The sweep.
        folder: Folder of its settings.
    """
    table, keys = sweep_table(sweep, folder), list(sweep.parameters)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(table, folder / "results.csv")
    drawn = draw_settings(table, keys, sweep.measure, folder / "settings.png")
    report = sweep_report(table, keys, sweep.measure, failures(folder), has_picture=drawn)
    write_whole(report, folder / "report.md")
    finished = table[table["state"] == "finished"]
    if not len(finished):
        return f"No setting is finished yet. Table: {folder / 'results.csv'}"
    best = finished.iloc[0]
    return (
        f"Best of {len(finished)} finished settings: {words_of(best.to_dict(), keys)}, "
        f"{sweep.measure} {_spread(best, sweep.measure)}; the best of many is optimistic. "
        f"Its run: {folder / best['name']}. Report: {folder / 'report.md'}"
    )


def sweep_report(
    table: pd.DataFrame,
    keys: Sequence[str],
    measure: str,
    failures: Sequence[str],
    *,
    has_picture: bool,
) -> str:
    """Compose report.md.

    Args:
        table: What `sweep_table` returns.
        keys: The swept keys.
        measure: The column that counts.
        failures: A line for every setting that failed.
        has_picture: Whether settings.png was drawn.
    """
    states = table["state"].value_counts()
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    sections = ["# Settings", f"{len(table)} settings were tried: {counts}."]
    finished = table[table["state"] == "finished"]
    if len(finished):
        best, values = finished.iloc[0], finished[measure]
        main = "mae" if measure in MEASURES else "auroc"
        sections += [
            f"**First: {words_of(best.to_dict(), keys)}**, {measure} {_spread(best, measure)} "
            f"(sd over repeats), {main.upper()} {best[main]:.3f} (95 % interval "
            f"{best[f'{main}_low']:.3f} to {best[f'{main}_high']:.3f}). Over all finished settings "
            f"{measure} has median {values.median():.3f} and ranges from {values.min():.3f} to "
            f"{values.max():.3f}.",
        ]
    if len(table) > 1:
        sections += [
            f"**Optimistic:** the first of {len(table)} settings was chosen by the very patients "
            "that its figure is of. Were all settings equally good, chance alone would put one of "
            "them on top, the higher the more are tried; its interval does not allow for that. "
            "Report a figure of the chosen setting from other patients, or choose inside each fold."
        ]
    if has_picture:
        sections += ["![Figure of each setting over the values of each key](settings.png)"]
    sections += [_markdown(table.head(SHOWN_ROWS), keys, measure)]
    if len(table) > SHOWN_ROWS:
        sections += [f"The other {len(table) - SHOWN_ROWS} are in results.csv."]
    sections += [
        "Figures are means over repeats; of a setting that was stopped early or is not finished, "
        "over the folds so far. Settings on identical folds are compared patient by patient with "
        "`make compare`."
    ]
    if failures:
        sections += ["## Failed", "\n".join(f"- {line}" for line in failures)]
    return "\n\n".join(sections) + "\n"


def _markdown(table: pd.DataFrame, keys: Sequence[str], measure: str) -> str:
    usual = ("mae", "r2") if measure in MEASURES else ("auroc", "balanced_accuracy")
    measures = list(dict.fromkeys([measure, *usual]))
    columns = [*keys, "state", "folds", *measures, "name"]
    lines = [columns, ["---"] * len(columns)]
    for _, row in table.iterrows():
        lines += [[_spread(row, name) if name in measures else str(row[name]) for name in columns]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _spread(row: pd.Series, measure: str) -> str:
    """A figure with its sd over repeats, where there is one."""
    value, sd = row[measure], row.get(f"{measure}_sd", float("nan"))
    return "–" if pd.isna(value) else f"{value:.3f}" + ("" if pd.isna(sd) else f" ± {sd:.3f}")


def draw_settings(table: pd.DataFrame, keys: Sequence[str], measure: str, path: Path) -> bool:
    """Draw the figure of each setting over the values of each key; answer whether there is one.

    Args:
        table: What `sweep_table` returns.
        keys: The swept keys; those with a single value are left out.
        measure: The column that counts.
        path: The PNG to write.
    """
    known = table[table[measure].notna()]
    shown = [key for key in keys if known[key].nunique() > 1]
    if not shown:
        return False
    width = max(5.0, 1 + 2.2 * len(shown))  # the title has to fit
    figure, axes = plt.subplots(
        1, len(shown), sharey=True, squeeze=False, figsize=(width, 3.5), layout="constrained"
    )
    is_finished = known["state"] == "finished"
    for axis, key in zip(axes[0], shown, strict=True):
        words = known[key].fillna("–").map(lambda text: Path(text).stem if "/" in text else text)
        numbers = pd.to_numeric(words, errors="coerce")
        values = numbers if numbers.notna().all() else words
        for mark, rows in (("o", is_finished), ("x", ~is_finished)):
            axis.scatter(values[rows], known[measure][rows], marker=mark, alpha=0.7)
        if numbers.min() > 0 and numbers.max() / numbers.min() > LOG_RATIO:
            axis.set_xscale("log")
        if values is words:
            axis.set_xticks(axis.get_xticks(), axis.get_xticklabels(), rotation=30, ha="right")
        axis.set_xlabel(key.rpartition(".")[2])
    axes[0, 0].set_ylabel(f"cv {measure}")
    figure.suptitle("Each point is a setting; crosses: stopped early or not finished", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
