"""Draw a cross-validation's curves as PNG files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import pandas as pd
from sklearn.metrics import RocCurveDisplay, confusion_matrix

from evaluation.calibration import reliability
from evaluation.confidence import accuracy_at, accuracy_by_coverage
from evaluation.predictions import class_names_of, probs_of

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

REPEAT_COLOR = "0.6"
MEAN_COLOR = "tab:blue"
VALIDATION = ("val/loss", "val/balanced_accuracy")


def draw_learning_curves(curves: pd.DataFrame, path: Path) -> None:
    """Draw training and validation loss, and validation accuracy where there is one.

    Args:
        curves: Columns fold_run, epoch and the logged names (train/loss, val/loss, …).
        path: The PNG to write.
    """
    panels = [["train/loss", "val/loss"], ["val/accuracy", "val/balanced_accuracy"]]
    panels = [names for names in panels if any(name in curves for name in names)]
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), squeeze=False)
    figure.subplots_adjust(left=0.16 / len(panels), right=1 - 0.04 / len(panels), bottom=0.13)
    for axis, names in zip(axes[0], panels, strict=True):
        for name, color in zip(names, ("tab:blue", "tab:orange"), strict=True):
            if name not in curves:
                continue
            for _, fold in curves.dropna(subset=[name]).groupby("fold_run"):
                axis.plot(fold["epoch"], fold[name], color=color, alpha=0.15, linewidth=0.8)
            mean = curves.groupby("epoch")[name].mean().dropna()
            axis.plot(mean.index, mean, color=color, label=name, zorder=3, linewidth=2)
        axis.set(xlabel="epoch", ylabel=names[0].partition("/")[2])
        axis.legend()
    figure.suptitle("Learning curves (thin: folds, thick: their mean)")
    _save(figure, path)


def draw_learning_curves_of_runs(curves: pd.DataFrame, path: Path) -> None:
    """Draw the mean over folds of each run's losses and balanced accuracy.

    Args:
        curves: Columns run, fold_run, epoch and the logged names.
        path: The PNG to write.
    """
    names = [name for name in ("train/loss", *VALIDATION) if name in curves]
    figure, axes = plt.subplots(
        1, len(names), figsize=(5.5 * len(names), 4), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        for run, rows in curves.groupby("run", sort=False):
            mean = rows.groupby("epoch")[name].mean().dropna()
            axis.plot(mean.index, mean, label=run, linewidth=1.5)
        part = "training patients" if name == "train/loss" else "validation patients"
        axis.set(xlabel="epoch", ylabel=name.partition("/")[2].replace("_", " "), title=part)
    axes[0][0].legend()
    figure.suptitle("Means over folds and repeats")
    _save(figure, path)


def draw_learning_curve(curve: pd.DataFrame, path: Path) -> None:
    """Draw the AUROC by the share of the training patients, with 95 % bands over patients.

    Args:
        curve: What `evaluation.learning_curve.learning_curve` returned.
        path: The PNG to write.
    """
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for color, (name, rows) in zip(
        ("0.35", "tab:blue"), curve.groupby("arm", sort=False), strict=False
    ):
        shares = 100 * rows["share"]
        axis.fill_between(shares, rows["low"], rows["high"], color=color, alpha=0.15, linewidth=0)
        axis.errorbar(shares, rows["auroc"], rows["sd"], color=color, marker="o", label=name)
    axis.axhline(0.5, linestyle=":", color="0.5")
    axis.set(xlabel="share of the training patients, %", ylabel="AUROC", xlim=(0, 103))
    axis.set_title("Bands: 95 % over patients; bars: sd over repeats", fontsize="medium")
    axis.legend(loc="lower right")
    _save(figure, path)


def draw_performance(
    comparison: pd.DataFrame, measures: Mapping[str, tuple[str, float | None]], path: Path
) -> None:
    """Draw two measures of each run as bars, with 95 % intervals and repeats' range.

    Args:
        comparison: What `compare_runs` or `compare_regressions` returned.
        measures: Title of each measure, and its value by chance; None is a measure without one,
            which begins at 0.
        path: The PNG to write.
    """
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 1.5 + 0.35 * len(comparison)), sharey=True, layout="constrained"
    )
    places = range(len(comparison))
    for axis, (measure, (title, chance)) in zip(axes, measures.items(), strict=True):
        mean = comparison[measure]
        axis.barh(places, mean, color="tab:blue", alpha=0.35)
        for suffixes, color, width, label in (
            (("_min", "_max"), "tab:blue", 5, "range over repeats"),
            (("_low", "_high"), "black", 1, "95 % interval over patients"),
        ):
            low, high = (comparison[measure + suffix] for suffix in suffixes)
            axis.hlines(places, low, high, color=color, linewidth=width, label=label)
        axis.set_xlabel(title)
        if chance is None:
            axis.set_xlim(left=0)
            continue
        axis.axvline(chance, linestyle=":", color="0.5")
        axis.set_xlim(min(chance - 0.1, float(comparison[f"{measure}_low"].min())), 1)
    axes[0].set_yticks(places, comparison.index)
    axes[0].set_ylim(len(comparison) - 0.4, -0.6)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    _save(figure, path)


def draw_roc(predictions: pd.DataFrame, path: Path) -> None:
    """Draw one ROC curve per repeat; with more than two classes, one per class over repeats."""
    names = class_names_of(predictions)
    figure, axis = _square()
    if len(names) == 2:
        for repeat, rows in predictions.groupby("repeat"):
            RocCurveDisplay.from_predictions(
                rows["label"] == names[1],
                probs_of(rows)[:, 1],
                ax=axis,
                name=f"repeat {repeat}",
            )
    else:
        for index, name in enumerate(names):
            RocCurveDisplay.from_predictions(
                predictions["label"] == name, probs_of(predictions)[:, index], ax=axis, name=name
            )
    axis.plot([0, 1], [0, 1], linestyle=":", color="0.5")
    axis.set(title="ROC of out-of-fold predictions", xlabel="1 − specificity", ylabel="sensitivity")
    _save(figure, path)


def draw_confusion(predictions: pd.DataFrame, path: Path) -> None:
    """Draw the confusion matrix, averaged over repeats."""
    names = class_names_of(predictions)
    num_repeats = predictions["repeat"].nunique()
    counts = confusion_matrix(predictions["label"], predictions["predicted"], labels=names)
    mean = counts / num_repeats
    figure, axis = _square(layout="constrained")  # names of classes may be long
    axis.imshow(mean / np.maximum(mean.sum(axis=1, keepdims=True), 1e-9), cmap="Blues", vmax=1)
    for row, column in np.ndindex(mean.shape):
        share = mean[row, column] / max(mean[row].sum(), 1e-9)
        axis.text(
            column,
            row,
            f"{mean[row, column]:.3g}\n{share:.0%}",
            ha="center",
            va="center",
            color="white" if share > 0.5 else "black",
        )
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true", title="Confusion matrix, mean over repeats")
    _save(figure, path)


def draw_accuracy_by_coverage(predictions: pd.DataFrame, path: Path) -> None:
    """Draw accuracy against the share of cases decided, the most confident first."""
    figure, axis = _square()
    curves = accuracy_by_coverage(predictions)
    shares = np.sort(curves["coverage"].unique())
    accuracies = []
    for _, curve in curves.groupby("repeat"):
        axis.plot(curve["coverage"], curve["accuracy"], color=REPEAT_COLOR, linewidth=0.8)
        accuracies.append(accuracy_at(curve, shares))
    mean = np.mean(accuracies, axis=0)
    axis.plot(shares, mean, color=MEAN_COLOR, label="mean over repeats")
    axis.set(
        xlabel="share of cases decided (most confident first)",
        ylabel="accuracy among them",
        title="Accuracy by coverage",
        xlim=(0, 1.02),
        ylim=(min(0.5, float(curves["accuracy"].min()) - 0.02), 1.02),
    )
    axis.legend(loc="lower left")
    _save(figure, path)


def draw_reliability(predictions: pd.DataFrame, scaled: pd.DataFrame | None, path: Path) -> None:
    """Draw what came true against what was predicted, with 95 % intervals.

    Args:
        predictions: A predictions table.
        scaled: The same after calibration; None if there is nothing to calibrate on.
        path: The PNG to write.
    """
    figure, axis = _square()
    axis.plot([0, 1], [0, 1], linestyle=":", color="0.5")
    kinds = {"as trained": (predictions, "tab:blue", -0.004)}
    if scaled is not None:
        kinds["calibrated"] = (scaled, "tab:orange", 0.004)
    for label, (table, color, aside) in kinds.items():
        bins = reliability(table)
        axis.vlines(bins["prob"] + aside, bins["low"], bins["high"], color=color, alpha=0.6)
        axis.plot(bins["prob"] + aside, bins["observed"], color=color, marker="o", label=label)
    names = class_names_of(predictions)
    what = f"{names[1]!r}" if len(names) == 2 else "a class"
    axis.set(
        xlabel=f"predicted probability of {what}",
        ylabel="share that came true",
        title="Reliability, with 95 % intervals",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axis.legend(loc="upper left")
    _save(figure, path)


def _square(layout: Literal["constrained"] | None = None) -> tuple[plt.Figure, Axes]:
    """Make a figure; without a layout its margins are fixed, which takes half the time to draw."""
    figure, axis = plt.subplots(figsize=(5, 4.6), layout=layout)
    if layout is None:
        figure.subplots_adjust(left=0.13, right=0.97, bottom=0.115, top=0.925)
    return figure, axis


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
