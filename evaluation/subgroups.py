"""Figures of parts of the cohort: sites, sexes, ages."""

from collections.abc import Iterator

import pandas as pd

from evaluation.intervals import closed_intervals
from evaluation.predictions import as_cases, per_scan, scans_are_cases
from evaluation.uncertainty import estimates

MAX_GROUPS = 12
MIN_PATIENTS = 5  # of each class; fewer tell nothing
FIGURES = ("auroc", "balanced_accuracy", "sensitivity", "specificity")


def subgroup_rows(predictions: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """Measure every group of every column that describes the patients.

    Args:
        predictions: A predictions table.
        cohort: Columns patient_id and image, and the columns that divide the scans; numbers are
            divided at their median, columns with one or more than MAX_GROUPS values are left out.

    Returns:
        Columns column, group, num_patients, num_scans, FIGURES, auroc_low and auroc_high (DeLong);
        figures are NaN for groups with fewer than MIN_PATIENTS patients of a class. A patient
        whose scans are in two groups is measured in both, by the scans of each.
    """
    if scans_are_cases(predictions):
        predictions = per_scan(predictions)
    rows = []
    for column, groups in groups_by_column(cohort):
        merged = predictions.merge(
            cohort[["patient_id", "image"]].assign(group=groups), on=["patient_id", "image"]
        )
        for group, part in merged.groupby("group"):
            rows.append({"column": column, "group": group or "(missing)"} | _measure(part))
    columns = ["column", "group", "num_patients", "num_scans", *FIGURES, "auroc_low", "auroc_high"]
    return pd.DataFrame(rows, columns=columns)


def groups_by_column(cohort: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Divide the scans by each column that describes them: its name, and the group of each scan.

    Numbers are divided at their median, columns with one or more than MAX_GROUPS values left out.
    """
    for column in cohort.columns.drop(["patient_id", "image", "label"], errors="ignore"):
        groups = _groups(cohort[column])
        if 1 < groups[groups != ""].nunique() <= MAX_GROUPS:
            yield column, groups


def _groups(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values.replace("", None), errors="coerce")
    known = values != ""
    if numbers[known].isna().any() or numbers.nunique() <= 2 or not known.any():
        return values
    middle = numbers.median()
    halves = numbers.map(lambda number: f"< {middle:g}" if number < middle else f"≥ {middle:g}")
    return halves.where(known, "")


def _measure(part: pd.DataFrame) -> dict[str, float]:
    scans = part[["patient_id", "image", "label"]].drop_duplicates()
    sizes: dict[str, float] = {
        "num_patients": scans["patient_id"].nunique(),
        "num_scans": len(scans),
    }
    per_class = scans.groupby("label")["patient_id"].nunique()
    names = [name for name in part.columns if name.startswith("prob_")]
    if len(per_class) < len(names) or per_class.min() < MIN_PATIENTS:
        return sizes
    part = as_cases(part)
    figures = estimates(part)
    low, high = closed_intervals(part)["auroc"]["delong"]
    return (
        sizes | {name: figures[name] for name in FIGURES} | {"auroc_low": low, "auroc_high": high}
    )
