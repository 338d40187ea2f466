"""Every figure of a regression's run: the content of its metrics.json."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, spearmanr
from sklearn.metrics import cohen_kappa_score

from evaluation.predictions import CASE
from evaluation.regression import (
    number_cases,
    over_repeats,
    regression_estimates,
    spread_ranking,
)
from evaluation.regression_intervals import difference_interval, regression_intervals
from evaluation.subgroups import groups_by_column

MOST_GRADES = 10
POWER = 0.8
MIN_PATIENTS = 5  # of a subgroup


def summarise_regression(
    predictions: pd.DataFrame, splits: pd.DataFrame, cohort: pd.DataFrame
) -> dict[str, Any]:
    """Compute every figure of a run.

    Args:
        predictions: Out-of-fold predictions of the tested scans.
        splits: Part of every patient in every fold.
        cohort: One row per scan: patient_id, image, target, and what describes the patients.

    Returns:
        The content of metrics.json.
    """
    cases = number_cases(predictions)
    constant = mean_predictor(predictions, splits, cohort)
    trained = (splits["part"] == "train").any()
    per_scan = len(cases) < len(predictions)
    untested = set(splits["patient_id"]) - set(predictions["patient_id"])
    described = cohort.drop(columns=["target", "file_hash"], errors="ignore")
    intervals = regression_intervals(predictions)
    return {
        "task": "regression",
        "case": "scan" if CASE in predictions else "patient",
        "num_cases": len(cases) // cases["repeat"].nunique(),
        "num_patients": int(predictions["patient_id"].nunique()),
        "num_scans": len(predictions[["patient_id", "image"]].drop_duplicates()),
        "num_repeats": int(predictions["repeat"].nunique()),
        "num_untested_patients": len(untested),
        "target": target_facts(cases),
        **over_repeats(cases),
        "per_scan": over_repeats(predictions) if per_scan else None,
        "interval_95": intervals,
        "mean_predictor": {
            "of": "the training patients" if trained else "these patients",
            **{name: regression_estimates(constant)[name] for name in ("mae", "rmse", "r2")},
            "mae_interval_95": regression_intervals(constant)["mae"],
            "mae_difference_95": difference_interval(predictions, constant, "mae"),
        },
        "bias_line": bias_line(cases),
        "spread": spread_summary(predictions),
        "rounded": rounded_grades(cases),
        "sample": what_can_be_shown(predictions, intervals["mae"]),
        "subgroups": subgroup_errors(predictions, described),
    }


def target_facts(cases: pd.DataFrame) -> dict[str, float]:
    """Describe the targets of the predicted cases."""
    values = cases[cases["repeat"] == cases["repeat"].min()]["target"]
    middle = {"mean": values.mean(), "sd": values.std(ddof=1), "median": values.median()}
    return {name: float(x) for name, x in middle.items()} | {
        "min": float(values.min()),
        "max": float(values.max()),
    }


def mean_predictor(
    predictions: pd.DataFrame, splits: pd.DataFrame, cohort: pd.DataFrame
) -> pd.DataFrame:
    """Predict each test scan by the mean target of its fold's training scans.

    Where nobody is trained on, as in an evaluation elsewhere, by the mean of all scans.

    Args:
        predictions: A predictions table.
        splits: The splits table of the same run.
        cohort: Columns patient_id and target of every scan.
    """
    targets = cohort["target"].astype(float)
    constant = predictions.assign(predicted=np.nan)
    for (repeat, fold), rows in predictions.groupby(["repeat", "fold"]):
        parts = splits[(splits["repeat"] == repeat) & (splits["fold"] == fold)]
        trained = set(parts.loc[parts["part"] == "train", "patient_id"])
        used = cohort["patient_id"].isin(trained) if trained else targets.notna()
        constant.loc[rows.index, "predicted"] = targets[used].mean()
    return constant


def bias_line(cases: pd.DataFrame) -> dict[str, Any]:
    """Fit the error as a line of the target, on the means over repeats.

    Returns:
        intercept and slope, and the error that the line gives at the 10 % and 90 % quantiles of
        the target (`low`, `high`: target and error).
    """
    mean = spread_ranking(cases)
    slope, intercept = np.polyfit(mean["target"], mean["error"], 1)
    ends = {
        name: [float(at), float(intercept + slope * at)]
        for name, at in zip(("low", "high"), np.quantile(mean["target"], [0.1, 0.9]), strict=True)
    }
    return {"intercept": float(intercept), "slope": float(slope), **ends}


def spread_summary(predictions: pd.DataFrame) -> dict[str, Any] | None:
    """Ask whether cases on which the repeats disagree have larger errors; None with one repeat.

    Returns:
        median: of the spreads; rank_correlation: Spearman's, of spread and absolute error of the
        mean prediction; mae_agreeing and mae_disagreeing: of the halves with small and large
        spread.
    """
    ranking = spread_ranking(predictions)
    if ranking["spread"].isna().any():
        return None
    error, spread = ranking["error"].abs(), ranking["spread"]
    correlation = spearmanr(spread, error).statistic if spread.nunique() > 1 else float("nan")
    half = len(ranking) // 2
    return {
        "median": float(spread.median()),
        "rank_correlation": float(correlation),
        "mae_disagreeing": float(error[:half].mean()),
        "mae_agreeing": float(error[half:].mean()),
    }


def rounded_grades(cases: pd.DataFrame) -> dict[str, float] | None:
    """Measure predictions rounded to the nearest grade; None where targets are no grades.

    Grades are whole numbers, at most MOST_GRADES of them. Means over repeats.
    """
    grades = np.unique(cases["target"])
    if (grades != grades.round()).any() or not 2 < len(grades) <= MOST_GRADES:
        return None
    rounded = cases["predicted"].round().clip(grades.min(), grades.max()).astype(int)
    table = cases.assign(rounded=rounded, target=cases["target"].astype(int))
    off = (table["rounded"] - table["target"]).abs()
    kappas = [
        cohen_kappa_score(rows["target"], rows["rounded"], weights="quadratic")
        for _, rows in table.groupby("repeat")
    ]
    return {
        "accuracy": float((off == 0).mean()),
        "within_one": float((off <= 1).mean()),
        "kappa": float(np.mean(kappas)),
    }


def what_can_be_shown(predictions: pd.DataFrame, interval: tuple[float, float]) -> dict[str, Any]:
    """Say what this many patients can tell apart.

    Returns:
        smallest_r: the true correlation that is told from 0 four times in five (two-sided 5 %
        test, Fisher's transformation); sentence: that in words.
    """
    number = int(predictions["patient_id"].nunique())
    z = (norm.ppf(0.975) + norm.ppf(POWER)) / np.sqrt(max(number - 3, 1))
    smallest = float(np.tanh(z))
    sentence = (
        f"With {number} patients the mean absolute error is known to lie between {interval[0]:.3g} "
        f"and {interval[1]:.3g}, and a model is told from one that knows nothing four times in "
        f"five only if its true r is {smallest:.2f} or more; smaller effects and rare subgroups "
        "mostly stay hidden."
    )
    return {"smallest_r": smallest, "sentence": sentence}


def subgroup_errors(predictions: pd.DataFrame, cohort: pd.DataFrame) -> list[dict[str, Any]]:
    """Measure every group of every column that describes the patients.

    Returns:
        Rows with column, group, num_patients, num_scans, mae, mae_low, mae_high, bias; no figures
        for groups of fewer than MIN_PATIENTS patients.
    """
    rows = []
    for column, groups in groups_by_column(cohort):
        merged = predictions.merge(
            cohort[["patient_id", "image"]].assign(group=groups), on=["patient_id", "image"]
        )
        for group, part in merged.groupby("group"):
            row: dict[str, Any] = {"column": column, "group": group or "(missing)"}
            row["num_patients"] = int(part["patient_id"].nunique())
            row["num_scans"] = len(part[["patient_id", "image"]].drop_duplicates())
            if row["num_patients"] >= MIN_PATIENTS:
                part = part.drop(columns="group")
                figures = regression_estimates(part)
                low, high = regression_intervals(part)["mae"]
                row |= {"mae": figures["mae"], "mae_low": low, "mae_high": high}
                row |= {"bias": figures["bias"]}
            rows.append(row)
    return rows
