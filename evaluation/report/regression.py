"""The reports of a regression: report.md, and what report.html shows in the place of classes."""

from typing import Any

import pandas as pd

from evaluation.report.class_page import Names
from evaluation.report.markdown import markdown_table
from evaluation.report.regression_sentences import (
    NUMBER_INTERVALS,
    NUMBER_LABELS,
    bias_sentence,
    figure,
    interval_words,
    mean_predictor_sentence,
    number_case_sentence,
    slope_sentence,
    spread_sentences,
    unit_number,
)
from evaluation.report.sentences import count, start_sentence, verdict, who_is_predicted
from evaluation.report.tables import DESCRIBING, table_one

DOUBTFUL_ROWS = 10


def write_number_report(
    metrics: dict[str, Any],
    ranking: pd.DataFrame,
    run: dict[str, Any],
    cohort: pd.DataFrame,
    *,
    has_curves: bool,
) -> str:
    """Compose report.md; see `evaluation.report.markdown.write_report`."""
    num_folds = run["num_fold_runs"] // metrics["num_repeats"]
    kind = "Cross-validation" if num_folds > 1 else "Held-out test"
    sections = [
        f"# {kind} {run['name']}",
        f"**{verdict(metrics)}**",
        f"{metrics['num_scans']} scans of {metrics['num_patients']} patients, "
        f"{count(metrics['num_repeats'], 'repeat')} of {count(num_folds, 'fold')}; "
        f"{who_is_predicted(metrics)} {target_sentence(run)} {start_sentence(run)} "
        f"{run['preprocessing']}",
    ]
    if run.get("external"):
        sections += ["## Against the cohort that it was trained on", *run["external"]]
    doubtful = ranking.drop(columns="num_scans").head(DOUBTFUL_ROWS)
    has_spread = bool(ranking["spread"].notna().all())
    sections += [
        "## Patients",
        markdown_rows(describe_cohort(cohort)),
        "## Performance",
        number_measures_table(metrics),
        NUMBER_INTERVALS,
        number_case_sentence(metrics),
        metrics["sample"]["sentence"],
        mean_predictor_sentence(metrics),
        "![Predicted against true](predicted.png) ![Error against true](errors.png)",
        bias_sentence(metrics),
        "## Which cases to read first",
        *spread_sentences(metrics),
        f"The first {len(doubtful)} of {len(ranking)} {metrics['case']}s, all in `ranking.csv`:",
        markdown_table(doubtful),
        *(["![Error by spread](spread.png)"] if has_spread else []),
        "## Calibration",
        slope_sentence(metrics),
        "## How it was trained",
        *(["![Learning curves](learning_curves.png)"] if has_curves else []),
        f"`{run['command']}`",
        f"Commit {run['commit'] or 'unknown'}, seed {run['seed']}, data {run['data_hash']}, "
        f"{run['wall_time_s']:.0f} s on {run['device']}. All settings are in `config.yaml`, "
        "versions in `run.json`, folds in `splits.csv`.",
        "Research software, not a medical device.",
    ]
    return "\n\n".join(sections) + "\n"


def number_measures_table(metrics: dict[str, Any]) -> str:
    """Write the measures with their intervals and spread as a Markdown table."""
    titles = ["measure", "mean", "95 % interval", "sd over repeats", "min", "max"]
    rows = [[row["label"], *row["cells"]] for row in number_measures(metrics)]
    return markdown_rows({"columns": titles, "rows": rows})


def number_measures(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """List the measures with their figures in words."""
    return [
        {
            "label": label,
            "cells": [
                figure(name, metrics["mean"][name]),
                interval_words(name, metrics["interval_95"][name]),
                *(figure(name, metrics[key][name]) for key in ("sd", "min", "max")),
            ],
        }
        for name, label in NUMBER_LABELS.items()
    ]


def describe_cohort(cohort: pd.DataFrame) -> dict[str, Any]:
    """Describe the patients, their target included."""
    table = table_one(cohort, [], (*DESCRIBING, "target"))
    assert table is not None, "there is a target"
    return table


def number_page(
    metrics: dict[str, Any],
    ranking: pd.DataFrame,
    cohort: pd.DataFrame,
    names: Names,
    views: Names,
) -> dict[str, Any]:
    """Gather what the page of a regression shows in the place of classes.

    Args:
        metrics: The content of metrics.json.
        ranking: The ranking table.
        cohort: The run's cohort.csv.
        names: Patient and image as the page shows them.
        views: Data URI and words for the scans that have a picture.
    """
    return {
        "measures": number_measures(metrics),
        "table_one": describe_cohort(cohort),
        "interval": NUMBER_INTERVALS,
        "case": number_case_sentence(metrics),
        "dummy": mean_predictor_sentence(metrics),
        "bias": bias_sentence(metrics),
        "confidence": spread_sentences(metrics),
        "calibration": slope_sentence(metrics),
        "subgroups": [_subgroup(row) for row in metrics["subgroups"]],
        "ranking": _ranking(ranking, names, views),
    }


def target_sentence(run: dict[str, Any]) -> str:
    """Name the column that is predicted, where the run knows it."""
    return f"Predicted is the number in the column `{run['target']}`." if "target" in run else ""


def number_flow(metrics: dict[str, Any]) -> str:
    """Describe the targets that are predicted."""
    its = metrics["target"]
    return f"targets {unit_number(its['min'])} to {unit_number(its['max'])}, mean " + (
        f"{unit_number(its['mean'])}, sd {unit_number(its['sd'])}"
    )


def markdown_rows(table: dict[str, Any]) -> str:
    """Write columns and rows of words as a Markdown table."""
    lines = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _subgroup(row: dict[str, Any]) -> dict[str, Any]:
    interval = interval_words("mae", (row.get("mae_low"), row.get("mae_high")))
    cells = [unit_number(row.get("mae")), interval, unit_number(row.get("bias"))]
    return row | {"cells": cells}


def _ranking(ranking: pd.DataFrame, names: Names, views: Names) -> dict[str, Any]:
    columns = ["rank", "patient", "scan", "true", "predicted", "spread", "error"]
    rows = []
    for row in ranking.to_dict("records"):
        key = row["patient_id"], row["image"]
        patient, image = names[key]
        if row["num_scans"] > 1:
            image += f" and {row['num_scans'] - 1} more"
        figures = [unit_number(row[name]) for name in ("target", "predicted", "spread", "error")]
        view, alt = views.get(key, ("", ""))
        cells = [str(row["rank"]), patient, image, *figures]
        rows.append({"cells": cells, "view": view, "alt": alt, "wrong": False})
    return {"columns": columns, "numbers": [0, 3, 4, 5, 6], "rows": rows}
