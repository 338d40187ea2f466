"""Draw a regression: predicted against true, the error's line, error by spread."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from evaluation.regression import spread_ranking

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

POINT: dict[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "markersize": 4,
    "alpha": 0.75,
    "color": "tab:blue",
}
LINE = "tab:orange"


def draw_regression(predictions: pd.DataFrame, folder: Path) -> None:
    """Write predicted.png, errors.png and, with repeats, spread.png.

    Args:
        predictions: A predictions table.
        folder: Where to.
    """
    ranking = spread_ranking(predictions)
    _draw_predicted(ranking, folder / "predicted.png")
    _draw_errors(ranking, folder / "errors.png")
    if ranking["spread"].notna().all():
        _draw_spread(ranking, folder / "spread.png")


def _draw_predicted(ranking: pd.DataFrame, path: Path) -> None:
    """Draw the mean prediction of each case over its target, with its spread over repeats."""
    figure, axis = _square()
    target, predicted = ranking["target"], ranking["predicted"]
    ends = np.array([min(target.min(), predicted.min()), max(target.max(), predicted.max())])
    axis.plot(ends, ends, linestyle=":", color="0.4", label="predicted = true")
    spread = ranking["spread"] if ranking["spread"].notna().all() else None
    axis.errorbar(target, predicted, spread, ecolor="0.75", elinewidth=1, **POINT)
    _line(axis, target, predicted, "line through the predictions")
    title = "Out-of-fold predictions" + (", bars: sd over repeats" if spread is not None else "")
    axis.set(xlabel="true", ylabel="predicted", title=title)
    axis.legend(loc="upper left", fontsize="small")
    _save(figure, path)


def _draw_errors(ranking: pd.DataFrame, path: Path) -> None:
    """Draw the error of each case over its target, and the line through the errors."""
    figure, axis = _square()
    axis.axhline(0, linestyle=":", color="0.4")
    axis.plot(ranking["target"], ranking["error"], **POINT)
    _line(axis, ranking["target"], ranking["error"], "bias line: error by target")
    axis.set(xlabel="true", ylabel="error (predicted − true)", title="Does the error depend on it?")
    axis.legend(loc="upper right", fontsize="small")
    _save(figure, path)


def _draw_spread(ranking: pd.DataFrame, path: Path) -> None:
    """Draw the absolute error of each case over its spread."""
    figure, axis = _square()
    axis.plot(ranking["spread"], ranking["error"].abs(), **POINT)
    axis.set(
        xlabel="spread (sd of the predictions over repeats)",
        ylabel="absolute error of the mean prediction",
        title="Are doubtful cases wrong?",
        xlim=(0, None),
        ylim=(0, None),
    )
    _save(figure, path)


def _line(axis: Axes, x: pd.Series, y: pd.Series, words: str) -> None:
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    axis.plot(ends, intercept + slope * ends, color=LINE, label=f"{words}, slope {slope:.2f}")


def _square() -> tuple[plt.Figure, Axes]:
    return plt.subplots(figsize=(5, 4.6), layout="constrained")


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
