"""Many settings of one method side by side: table, picture, and why the best is optimistic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

FIGURES = (
    *("auroc", "auroc_low", "auroc_high", "balanced_accuracy"),
    *("accuracy", "sensitivity", "specificity"),
)
SHOWN_ROWS = 30
LOG_RATIO = 30.0  # an axis whose values span more is logarithmic


def best_first(table: pd.DataFrame, measure: str, *, maximize: bool) -> pd.DataFrame:
    """Sort settings: finished ones first, the best on top.

    Args:
        table: One row per setting: name, state, folds, figures and the swept keys.
        measure: The column that counts.
        maximize: Whether more of it is better.
    """
    order = table.assign(
        _state=table["state"] != "finished",
        _value=table[measure].astype(float) * (-1 if maximize else 1),
    )
    order = order.sort_values(["_state", "_value", "name"], na_position="last", kind="stable")
    return order.drop(columns=["_state", "_value"]).reset_index(drop=True)


def write_sweep_report(
    table: pd.DataFrame,
    keys: Sequence[str],
    measure: str,
    method: str,
    failures: Sequence[str],
    *,
    has_picture: bool,
) -> str:
    """Compose report.md of a grid or a search.

    Args:
        table: What `best_first` returned.
        keys: The swept keys.
        measure: The column that counts.
        method: 'grid', 'random' or 'bayes'.
        failures: A line for every part that failed.
        has_picture: Whether parallel_coordinates.png was drawn.
    """
    states = table["state"].value_counts()
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    sections = ["# Settings", f"Method {method}; {len(table)} settings were tried: {counts}."]
    finished = table[table["state"] == "finished"]
    if len(finished):
        best, values = finished.iloc[0], finished[measure].astype(float)
        own = ", ".join(f"{key} {best[key]}" for key in keys)
        sections += [
            f"**First: {best['name']}** ({own}), {measure} {best[measure]:.3f}, AUROC "
            f"{best['auroc']:.3f} (95 % interval {best['auroc_low']:.3f} to "
            f"{best['auroc_high']:.3f}). Over all finished settings {measure} has median "
            f"{values.median():.3f} and ranges from {values.min():.3f} to {values.max():.3f}.",
        ]
    if len(table) > 1:
        sections += [
            f"**Optimistic:** the first of {len(table)} settings was chosen by the very patients "
            "that its figure is of. Were all settings equally good, chance alone would put one of "
            "them on top, the higher the more are tried; its interval does not allow for that. "
            "Report a figure of the chosen setting from other patients, or choose inside each fold."
        ]
    if has_picture:
        sections += ["![Settings and what came of them](parallel_coordinates.png)"]
    sections += [_markdown(table.head(SHOWN_ROWS), keys)]
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


def draw_parallel_coordinates(
    table: pd.DataFrame, keys: Sequence[str], measure: str, path: Path
) -> bool:
    """Draw a line for each setting through its values to its figure; answer whether there is one.

    Args:
        table: Columns of the swept keys, as texts, and the measure; state tells finished settings
            (solid) from others (dashed).
        keys: The swept keys; those with a single value are left out.
        measure: The column that counts, the last axis.
        path: The PNG to write.
    """
    known = table[table[measure].notna()]
    shown = [key for key in keys if known[key].nunique() > 1]
    if not len(known) or not shown:
        return False
    words = known[shown].fillna("–").astype(str).map(_word)
    columns = [_places(words[key]) for key in shown]
    figures = known[measure].astype(float).to_numpy()
    low, high = float(figures.min()), float(figures.max())
    span = (high - low) or 1.0
    places = np.column_stack([*(column for column, _ in columns), (figures - low) / span])
    ticks = [ticks for _, ticks in columns]
    ticks.append({low + share * span: share for share in (0.0, 0.25, 0.5, 0.75, 1.0)})
    figure, axis = plt.subplots(figsize=(2.2 + 1.7 * len(shown), 4.5), layout="constrained")
    colors = plt.colormaps["viridis"](places[:, -1])
    for place in np.argsort(places[:, -1]):  # the best on top
        dashed = known["state"].iloc[place] != "finished"
        axis.plot(
            places[place],
            color=colors[place],
            linestyle="--" if dashed else "-",
            alpha=0.5 if dashed else 0.85,
        )
    titles = [*(key.rpartition(".")[2] for key in shown), f"cv {measure}"]
    _draw_axes(axis, titles, ticks)
    axis.set_title("Each line is a setting; dashed: stopped early or not finished")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def _word(text: str) -> str:
    return Path(text).stem if text.endswith(".yaml") else text


def _places(texts: pd.Series) -> tuple[np.ndarray, dict[Any, float]]:
    """Where on an axis from 0 to 1 the values of a key are, and the axis' ticks."""
    numbers = pd.to_numeric(texts, errors="coerce")
    if numbers.notna().all() and numbers.nunique() > 6:
        values = numbers.to_numpy(dtype=float)
        logarithmic = values.min() > 0 and values.max() / values.min() > LOG_RATIO
        values = np.log10(values) if logarithmic else values
        low, high = values.min(), values.max()
        marks = np.linspace(low, high, 5)
        ticks = {
            float(10**mark if logarithmic else mark): (mark - low) / (high - low) for mark in marks
        }
        return (values - low) / (high - low), ticks
    order = numbers if numbers.notna().all() else texts
    names = list(dict.fromkeys(texts.iloc[np.argsort(order.to_numpy(), kind="stable")]))
    share = {name: place / (len(names) - 1) for place, name in enumerate(names)}
    apart = 0.05 * ((np.arange(len(texts)) + 0.5) / len(texts) - 0.5)  # lines with it in common
    return texts.map(share).to_numpy(dtype=float) + apart, share


def _draw_axes(axis: Axes, titles: Sequence[str], ticks: Sequence[dict]) -> None:
    axis.set(xlim=(-0.1, len(titles) - 0.55), ylim=(-0.05, 1.05), yticks=[])
    axis.set_xticks(range(len(titles)), titles)
    for side in axis.spines.values():
        side.set_visible(False)
    for x, marks in enumerate(ticks):
        axis.axvline(x, color="0.3", linewidth=1)
        for name, y in marks.items():
            words = f"{name:.3g}" if isinstance(name, float) else name
            axis.annotate(
                words,
                (x, y),
                (4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
            )


def _markdown(table: pd.DataFrame, keys: Sequence[str]) -> str:
    columns = ["name", "state", "folds", "auroc", "balanced_accuracy", *keys]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for _, row in table[columns].iterrows():
        cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
