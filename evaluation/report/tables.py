"""Tables of a report: who the patients are (Table 1), and each class by itself."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from evaluation.metrics import PER_CLASS

DESCRIBING = ("site", "sex", "gender", "age")  # columns of the cohort table, in any case
MAX_VALUES = 12  # of a column of words; the rarest are counted together
EVERYONE = "All"


def table_one(
    cohort: pd.DataFrame, classes: list[str], describing: Sequence[str] = DESCRIBING
) -> dict[str, Any] | None:
    """Describe the cohort by class.

    A patient with scans in several classes counts in each of them, and once in all. What is
    described is the patient's first row.

    Args:
        cohort: The run's cohort.csv: patient_id, image, label, and what describes the patients.
        classes: Names of the classes.
        describing: Columns that are described, in any case.

    Returns:
        columns and rows of words; None where the cohort has none of them.
    """
    groups = {EVERYONE: cohort} | {name: cohort[cohort["label"] == name] for name in classes}
    people = {name: rows.drop_duplicates("patient_id") for name, rows in groups.items()}
    described: list[list[str]] = []
    for column in cohort.columns:
        if column.lower() in describing:
            described += _describe(column, {name: rows[column] for name, rows in people.items()})
    if not described:
        return None
    counts = [
        ["Patients, n", *(str(len(rows)) for rows in people.values())],
        ["Scans, n", *(str(len(rows)) for rows in groups.values())],
    ]
    return {"columns": ["", *groups], "rows": counts + described}


def class_table(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Measure each class against the rest, means over repeats.

    Args:
        metrics: The content of metrics.json.

    Returns:
        columns and rows of words; None with two classes, whose figures are the headline.
    """
    if len(metrics["classes"]) == 2:
        return None
    rows = []
    for k, name in enumerate(metrics["classes"]):
        each = pd.DataFrame([repeat["per_class"][name] for repeat in metrics["repeats"]])
        mean = each.astype(float).mean()
        figures = ["–" if pd.isna(mean[one]) else f"{mean[one]:.3f}" for one in PER_CLASS]
        rows.append([name, str(sum(metrics["repeats"][0]["confusion"][k])), *figures])
    titles = ["Sensitivity", "Specificity", "PPV", "NPV", "F1", "AUROC", "AUPRC", "Brier"]
    return {"columns": ["Class", f"{metrics['case'].capitalize()}s", *titles], "rows": rows}


def _describe(column: str, groups: dict[str, pd.Series]) -> list[list[str]]:
    """Rows of one column: mean, sd and median of numbers, counts of words; none if it is empty."""
    known = groups[EVERYONE][groups[EVERYONE] != ""]
    if known.empty:
        return []
    if known.nunique() > 2 and pd.to_numeric(known, errors="coerce").notna().all():
        numbers = {name: pd.to_numeric(cells[cells != ""]) for name, cells in groups.items()}
        rows = [
            [f"{column}, mean ± sd", *map(_spread, numbers.values())],
            [f"{column}, median (min–max)", *map(_middle, numbers.values())],
        ]
    else:
        values = known.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        shown = sorted(values.index[:MAX_VALUES])
        rows = [
            [f"{column}: {value}", *(_share(cells == value) for cells in groups.values())]
            for value in shown
        ]
        if len(values) > len(shown):
            others = [_share(~cells.isin([*shown, ""])) for cells in groups.values()]
            rows.append([f"{column}: {len(values) - len(shown)} others", *others])
    if len(known) < len(groups[EVERYONE]):
        rows.append([f"{column}: not known", *(_share(cells == "") for cells in groups.values())])
    return rows


def _spread(numbers: pd.Series) -> str:
    if numbers.empty:
        return "–"
    sd = "" if len(numbers) < 2 else f" ± {numbers.std(ddof=1):.1f}"
    return f"{numbers.mean():.1f}{sd}"


def _middle(numbers: pd.Series) -> str:
    if numbers.empty:
        return "–"
    return f"{numbers.median():.4g} ({numbers.min():.4g}–{numbers.max():.4g})"


def _share(chosen: pd.Series) -> str:
    if chosen.empty:
        return "–"
    return f"{int(chosen.sum())} ({chosen.mean():.0%})"
