"""The tables of a cross-validation: what was predicted, and which cases to read first.

A predictions table has one row per scan and repeat, with the columns patient_id, image, repeat,
fold, label, prob_<class> for every class, predicted, confidence.

**One score.** The outputs of a network with one sigmoid per class (MCTL §3.3) need not add up to
one. Divided by their sum they do, and decision, confidence, AUROC, Brier score, calibration and
conformal sets all use these shares. The highest share is the prediction, its lead over the second
the confidence: with two classes that is |2 p - 1|, so that the order by confidence and the order
by score are one. The paper takes the lead before the division; where both outputs are high, or
both low, the two differ.

**One case.** Where patients have one label each, a patient is a case: the outputs of its scans are
averaged (`as_cases`). Where a patient's scans may have different labels (labels_per 'scan'), each
scan is a case, and the column `case` of the table names it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float

from files.whole_file import write_whole

PROB = "prob_"
CASE = "case"
DECIDED = ("predicted", "confidence")


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
    labels_per: Literal["patient", "scan"] = "patient",
) -> pd.DataFrame:
    """Build the predictions of one fold.

    Args:
        scans: The predicted scans, (N,).
        probs: One output per class in [0, 1], (N, K); they are divided by their sum.
        class_names: Names of the classes, (K,).
        repeat: Repeat of the fold.
        fold: The fold.
        labels_per: 'scan' makes every scan a case, in a column `case`.
    """
    values = _shares(np.asarray(probs, dtype=np.float64).reshape(len(scans), len(class_names)))
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
    table = with_decision(table)
    return table.assign(**{CASE: table["image"]}) if labels_per == "scan" else table


def with_decision(table: pd.DataFrame) -> pd.DataFrame:
    """Add `predicted` and `confidence` from the score; the first class wins a tie."""
    names = class_names_of(table)
    probs = probs_of(table)
    ordered = np.sort(probs, axis=1)
    return table.assign(
        predicted=np.asarray(names, dtype=object)[probs.argmax(axis=1)],
        confidence=ordered[:, -1] - ordered[:, -2],
    )


def scans_are_cases(predictions: pd.DataFrame) -> bool:
    """Whether each scan is a case of its own, and not each patient.

    The column `case` names it. In tables without it (of one label per patient, of old runs, of
    sites) a patient whose scans have different labels does.
    """
    if CASE in predictions:
        return True
    return bool((predictions.groupby("patient_id")["label"].nunique() > 1).any())


def as_cases(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the score over the scans of each patient, within a repeat, and decide.

    Args:
        predictions: A predictions table in which a patient is in one fold of a repeat, as in test
            parts; of validation parts, the rows of one fold.

    Returns:
        One row per case and repeat, with the table's columns. `image` is the patient's first by
        name. A table that has one row per case already comes back as it is.
    """
    if scans_are_cases(predictions) or not predictions.duplicated(["repeat", "patient_id"]).any():
        return predictions
    key = ["patient_id", "repeat", "label"]
    names = class_names_of(predictions)
    score = pd.DataFrame(probs_of(predictions), predictions.index, [PROB + name for name in names])
    table = pd.concat([predictions[[*key, "image", "fold"]], score], axis=1)
    how = {"image": "min", "fold": "min", **dict.fromkeys(score.columns, "mean")}
    # equal scores have equal means only if they are added up in one order
    places = table.groupby(key, sort=False).ngroup().to_numpy()
    ordered = table.assign(place=places).sort_values(["place", "image"])
    means = ordered.groupby(key, sort=False).agg(how).reset_index()
    return with_decision(means)[[*predictions.columns.intersection(means.columns), *DECIDED]]


def per_scan(predictions: pd.DataFrame) -> pd.DataFrame:
    """Make every scan a case: the same figures scan by scan."""
    return predictions.assign(**{CASE: predictions["image"]})


def ranking_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rank cases from least to most confident, the scores of all repeats averaged.

    Args:
        predictions: A predictions table.

    Returns:
        One row per case: rank (1 is the most doubtful), patient_id, image (a patient's first by
        name), num_scans (whose scores are averaged), label, prob_<class>, predicted, confidence,
        flips, the share of repeats that predicted another class, and confidence_sd, the spread of
        the confidence over repeats (0 with one repeat).
    """
    key = ["patient_id", "image", "label"]
    num_scans = predictions.groupby("patient_id")["image"].nunique()
    # equal outputs have equal means only if they are added up in one order
    table = as_cases(predictions.sort_values(["patient_id", "image", "repeat"], ignore_index=True))
    names = class_names_of(table)
    probs = [PROB + name for name in names]
    table = table.assign(**dict(zip(probs, probs_of(table).T, strict=True)))
    grouped = table.groupby(key, sort=False)
    mean = with_decision(grouped[probs].mean().reset_index())
    mean["flips"] = [
        float((table.loc[grouped.groups[place], "predicted"] != decided).mean())
        for place, decided in zip(
            mean[key].itertuples(index=False, name=None), mean["predicted"], strict=True
        )
    ]
    mean["confidence_sd"] = grouped["confidence"].std(ddof=1).fillna(0.0).reset_index(drop=True)
    single = scans_are_cases(predictions)
    mean.insert(2, "num_scans", 1 if single else mean["patient_id"].map(num_scans))
    mean = mean.sort_values(["confidence", "patient_id", "image"], ignore_index=True)
    mean.insert(0, "rank", range(1, len(mean) + 1))
    return mean


def class_names_of(table: pd.DataFrame) -> list[str]:
    """Names of the classes in the order of the prob_ columns; of two the last is positive."""
    return [name.removeprefix(PROB) for name in table.columns if name.startswith(PROB)]


def probs_of(table: pd.DataFrame) -> Float[np.ndarray, "rows classes"]:
    """The score: each row's outputs divided by their sum, (N, K)."""
    return _shares(table[[PROB + name for name in class_names_of(table)]].to_numpy(dtype=float))


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a predictions table; ids and labels stay strings, numbers are numbers."""
    strings = dict.fromkeys(("patient_id", "image", "label", "predicted", CASE), str)
    table = pd.read_csv(path, dtype=strings, keep_default_na=False)
    return table.astype({"predicted": float}) if "target" in table else table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV whole or not at all; nine digits keep a float32 exact."""
    write_whole(table_text(table), path)


def table_text(table: pd.DataFrame) -> str:
    """Write a table as CSV."""
    return table.to_csv(index=False, float_format="%.9g")


def _shares(outputs: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
    """Divide each row by its sum; a row of zeros knows nothing of the classes."""
    total = outputs.sum(axis=1, keepdims=True)
    equal = np.full_like(outputs, 1 / outputs.shape[1])
    return np.divide(outputs, total, out=equal, where=total > 0)
