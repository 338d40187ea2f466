"""The tables of a cross-validation: what was predicted, and which cases to read first.

A predictions table has one row per scan and repeat, with the columns patient_id, image, repeat,
fold, label, prob_<class> for every class, predicted, confidence. The outputs of a network with
one sigmoid per class need not add up to one; the highest is the prediction, and its lead over
the second is the confidence (MCTL §3.3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from evaluation.whole_file import write_whole

PROB = "prob_"


@runtime_checkable
class Scan(Protocol):
    """What a row needs to know of a scan."""

    @property
    def patient_id(self) -> str: ...  # noqa: D102
    @property
    def image(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102


def prediction_table(
    scans: Sequence[Scan],
    probs: Sequence[Sequence[float]],
    class_names: Sequence[str],
    *,
    repeat: int,
    fold: int,
) -> pd.DataFrame:
    """Build the predictions of one fold.

    Args:
        scans: The predicted scans, (N,).
        probs: One output per class in [0, 1], (N, K).
        class_names: Names of the classes, (K,).
        repeat: Repeat of the fold.
        fold: The fold.
    """
    values = np.asarray(probs, dtype=np.float64).reshape(len(scans), len(class_names))
    table = pd.DataFrame(
        {
            "patient_id": [scan.patient_id for scan in scans],
            "image": [scan.image for scan in scans],
            "repeat": repeat,
            "fold": fold,
            "label": [scan.label for scan in scans],
        }
    )
    for index, name in enumerate(class_names):
        table[PROB + name] = values[:, index]
    return with_decision(table)


def with_decision(table: pd.DataFrame) -> pd.DataFrame:
    """Add `predicted` and `confidence` from the prob_ columns; the first class wins a tie."""
    names = class_names_of(table)
    probs = probs_of(table)
    ordered = np.sort(probs, axis=1)
    return table.assign(
        predicted=np.asarray(names, dtype=object)[probs.argmax(axis=1)],
        confidence=ordered[:, -1] - ordered[:, -2],
    )


def ranking_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rank scans from least to most confident, the outputs of all repeats averaged.

    Args:
        predictions: A predictions table.

    Returns:
        One row per scan: rank (1 is the most doubtful), patient_id, image, label, prob_<class>,
        predicted, confidence, flips, the share of repeats that predicted another class, and
        confidence_sd, the spread of the confidence over repeats (0 with one repeat).
    """
    probs = [column for column in predictions.columns if column.startswith(PROB)]
    scans = predictions.groupby(["patient_id", "image", "label"], sort=False)
    mean = with_decision(scans[probs].mean().reset_index())
    mean["flips"] = [
        float((predictions.loc[scans.groups[key], "predicted"] != decided).mean())
        for key, decided in zip(
            mean[["patient_id", "image", "label"]].itertuples(index=False, name=None),
            mean["predicted"],
            strict=True,
        )
    ]
    spread = scans["confidence"].std(ddof=1).fillna(0.0).reset_index(drop=True)
    mean["confidence_sd"] = spread
    mean = mean.sort_values(["confidence", "patient_id", "image"], ignore_index=True)
    mean.insert(0, "rank", range(1, len(mean) + 1))
    return mean


def class_names_of(table: pd.DataFrame) -> list[str]:
    """Names of the classes in the order of the prob_ columns; the last one is positive."""
    return [name.removeprefix(PROB) for name in table.columns if name.startswith(PROB)]


def probs_of(table: pd.DataFrame) -> np.ndarray:
    """The outputs as an array, (N, K)."""
    return table[[PROB + name for name in class_names_of(table)]].to_numpy(dtype=float)


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a predictions table; ids and labels stay strings."""
    strings = dict.fromkeys(("patient_id", "image", "label", "predicted"), str)
    return pd.read_csv(path, dtype=strings, keep_default_na=False)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV whole or not at all; nine digits keep a float32 exact."""
    write_whole(table_text(table), path)


def table_text(table: pd.DataFrame) -> str:
    """Write a table as CSV."""
    return table.to_csv(index=False, float_format="%.9g")
