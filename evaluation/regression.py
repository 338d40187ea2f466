"""The predictions table of a regression, its measures, and which cases to read first.

A predictions table has one row per scan and repeat, with the columns patient_id, image, repeat,
fold, target, predicted; the last two in the unit of the target. As with classes, a patient is a
case and its scans' predictions are averaged, unless a column `case` makes each scan one.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from evaluation.predictions import CASE, Scan

MEASURES = ("mae", "rmse", "r2", "r", "slope", "bias", "bias_slope")
KEY = ["patient_id", "repeat"]


def is_regression(table: pd.DataFrame) -> bool:
    """Whether a predictions table is one of numbers."""
    return "target" in table


def regression_table(
    scans: Sequence[Scan],
    targets: Float[np.ndarray, " scans"],
    values: Float[np.ndarray, " scans"],
    *,
    repeat: int,
    fold: int,
    labels_per: Literal["patient", "scan"] = "patient",
) -> pd.DataFrame:
    """Build the predictions of one fold.

    Args:
        scans: The predicted scans, (N,).
        targets: What is true, (N,).
        values: What was predicted, in the same unit, (N,).
        repeat: Repeat of the fold.
        fold: The fold.
        labels_per: 'scan' makes every scan a case, in a column `case`.
    """
    table = pd.DataFrame(
        {
            "patient_id": [scan.patient_id for scan in scans],
            "image": [scan.image for scan in scans],
            "repeat": repeat,
            "fold": fold,
            "target": np.asarray(targets, dtype=float),
            "predicted": np.asarray(values, dtype=float),
        }
    )
    return table.assign(**{CASE: table["image"]}) if labels_per == "scan" else table


def number_cases(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the predictions of each patient's scans, within a repeat.

    Returns:
        One row per case and repeat, with the table's columns; `image` is the patient's first by
        name. A table that has one row per case already comes back as it is.
    """
    if CASE in predictions or not predictions.duplicated(KEY).any():
        return predictions
    ordered = predictions.sort_values(["repeat", "patient_id", "image"])
    how = {"image": "min", "fold": "min", "target": "mean", "predicted": "mean"}
    return ordered.groupby(KEY, sort=False).agg(how).reset_index()[[*predictions.columns]]


def spread_ranking(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rank cases by the spread of their predictions over the repeats, the largest first.

    Args:
        predictions: A predictions table.

    Returns:
        One row per case: rank, patient_id, image, num_scans, target, predicted (mean over
        repeats), spread (standard deviation over repeats; NaN with one, then the order is that of
        the ids), error (predicted less target).
    """
    num_scans = predictions.groupby("patient_id")["image"].nunique()
    cases = number_cases(predictions).sort_values(["patient_id", "image", "repeat"])
    key = ["patient_id", "image"] if CASE in predictions else ["patient_id"]
    table = cases.groupby(key, sort=False).agg(
        image=("image", "min"),
        target=("target", "first"),
        predicted=("predicted", "mean"),
        spread=("predicted", "std"),
    )
    if CASE in predictions:
        table = table.drop(columns="image")
    table = table.reset_index()
    single = CASE in predictions
    table.insert(2, "num_scans", 1 if single else table["patient_id"].map(num_scans))
    table["error"] = table["predicted"] - table["target"]
    table = table.sort_values(
        ["spread", "patient_id", "image"], ascending=[False, True, True], ignore_index=True
    )
    table.insert(0, "rank", range(1, len(table) + 1))
    return table


def mean_vote(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Average the members' predictions of the same scans."""
    order = ["repeat", "patient_id", "image"]
    tables = [table.sort_values(order, ignore_index=True) for table in members.values()]
    return tables[0].assign(predicted=np.mean([table["predicted"] for table in tables], axis=0))


def measures_of(sums: Float[np.ndarray, "... 8"]) -> dict[str, Float[np.ndarray, "..."]]:
    """Compute every measure from sums over cases (see `case_sums`); NaN where it is not defined.

    mae and rmse: mean absolute error and root of the mean squared error; r2: share of the
    target's variance that is explained, about the mean of the cases; r: Pearson's correlation;
    slope: of the target on the prediction, 1 where differences between predictions can be taken
    as they are; bias: mean error; bias_slope: of the error on the target, below 0 where small
    targets are predicted too large and large ones too small.
    """
    n, y, p, yy, pp, yp, absolute, square = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        var_y, var_p, both = yy - y * y / n, pp - p * p / n, yp - y * p / n
        flat = var_p <= 1e-12 * np.maximum(var_y, 1e-300)
        var_p = np.where(flat, np.nan, var_p)
        return {
            "mae": absolute / n,
            "rmse": np.sqrt(square / n),
            "r2": 1 - square / var_y,
            "r": both / np.sqrt(var_p * var_y),
            "slope": both / var_p,
            "bias": (p - y) / n,
            "bias_slope": both / var_y - 1,
        }


def case_sums(predictions: pd.DataFrame) -> Float[np.ndarray, "repeats patients 8"]:
    """Sum up what the measures need over the cases of each patient in each repeat.

    Args:
        predictions: A predictions table of cases.

    Returns:
        Number, targets, predictions, their squares and products, absolute and squared errors;
        targets and predictions are less the mean target. Repeats and patients are in order.
    """
    middle = predictions["target"].mean()
    y, p = predictions["target"] - middle, predictions["predicted"] - middle
    error = predictions["predicted"] - predictions["target"]
    columns = [y * 0 + 1, y, p, y * y, p * p, y * p, error.abs(), error * error]
    repeats, patients = (
        pd.Categorical(predictions[name], sorted(predictions[name].unique()))
        for name in ("repeat", "patient_id")
    )
    sums = np.zeros((len(repeats.categories), len(patients.categories), len(columns)))
    np.add.at(sums, (repeats.codes, patients.codes), np.column_stack(columns))
    return sums


def regression_estimates(predictions: pd.DataFrame) -> dict[str, float]:
    """Compute the mean over repeats of each of MEASURES, of cases."""
    found = measures_of(case_sums(number_cases(predictions)).sum(axis=1))
    return {name: float(np.mean(values)) for name, values in found.items()}


def over_repeats(predictions: pd.DataFrame) -> dict[str, dict]:
    """Compute mean, sd, min and max over the repeats of each of MEASURES, of the table's rows."""
    figures = pd.DataFrame(measures_of(case_sums(predictions).sum(axis=1)))
    several = len(figures) > 1
    unknown = dict.fromkeys(MEASURES)
    return {
        "mean": figures.mean(skipna=False).to_dict(),
        "sd": figures.std(ddof=1, skipna=False).to_dict() if several else unknown,
        "min": figures.min(skipna=False).to_dict(),
        "max": figures.max(skipna=False).to_dict(),
    }


def running_measures(predictions: pd.DataFrame) -> dict[str, float]:
    """Measure a cross-validation of which only some folds are predicted.

    Args:
        predictions: Rows of the folds so far; a repeat may be incomplete.

    Returns:
        Mean over the repeats, each weighted by the cases it has so far. A figure that is not
        defined yet is left out.
    """
    sums = case_sums(number_cases(predictions)).sum(axis=1)
    means = {}
    for name, values in measures_of(sums).items():
        known = np.isfinite(values)
        if known.any():
            means[name] = float(np.average(values[known], weights=sums[known, 0]))
    return means
