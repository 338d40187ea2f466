"""A short report of a cross-validation, as Markdown next to its pictures."""

from typing import Any

import pandas as pd

from evaluation.predictions import PROB
from evaluation.report.sentences import (
    calibration_sentence,
    case_sentence,
    confidence_sentences,
    count,
    dummy_sentence,
    folds_sentence,
    headline_sentence,
    interval_sentence,
    optimism_sentence,
    start_sentence,
    verdict,
    who_is_predicted,
)
from evaluation.report.tables import class_table, table_one

LABELS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV (precision)",
    "npv": "NPV",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "mcc": "MCC",
    "brier": "Brier score",
}
FOUND = "AUROC of doubt for errors"
DOUBTFUL_ROWS = 10


def write_report(
    metrics: dict[str, Any],
    ranking: pd.DataFrame,
    run: dict[str, Any],
    cohort: pd.DataFrame,
    *,
    has_curves: bool,
) -> str:
    """Compose report.md.

    Args:
        metrics: The content of metrics.json.
        ranking: The ranking table.
        run: The content of run.json.
        cohort: The cohort table.
        has_curves: Whether there is a picture of learning curves.
    """
    num_folds = run["num_fold_runs"] // metrics["num_repeats"]
    kind = "Cross-validation" if num_folds > 1 else "Held-out test"
    sections = [
        f"# {kind} {run['name']}",
        f"**{verdict(metrics)}**",
        f"{metrics['num_scans']} scans of {metrics['num_patients']} patients, "
        f"{count(metrics['num_repeats'], 'repeat')} of {count(num_folds, 'fold')}; "
        f"{who_is_predicted(metrics)} "
        f"{start_sentence(run)} {run['preprocessing']}",
    ]
    if run.get("external"):
        sections += ["## Against the cohort that it was trained on", *run["external"]]
    if metrics["protocol"] == "paper":
        sections.append(f"**Optimistic:** {optimism_sentence(metrics)}")
    if described := table_one(cohort, metrics["classes"]):
        sections += ["## Patients", _markdown(described)]
    by_class = class_table(metrics)
    sections += [
        "## Performance",
        measures_table(metrics),
        f"{interval_sentence(metrics)} {headline_sentence(metrics)}",
        case_sentence(metrics),
        *([_markdown(by_class)] if by_class else []),
        metrics["sample"]["sentence"],
        folds_sentence(metrics),
        dummy_sentence(metrics),
        "![ROC](roc.png) ![Confusion matrix](confusion.png)",
        "## Which cases to read first",
        f"The {min(DOUBTFUL_ROWS, len(ranking))} most doubtful of {len(ranking)} "
        f"{metrics['case']}s; all are in `ranking.csv`. Confidence is the highest probability "
        "minus the second.",
        _doubtful_table(ranking),
        "![Accuracy by coverage](accuracy_by_coverage.png)",
        *confidence_sentences(metrics),
        "## Calibration",
        calibration_sentence(metrics),
        "![Reliability](reliability.png)",
        "## How it was trained",
        *(["![Learning curves](learning_curves.png)"] if has_curves else []),
        f"`{run['command']}`",
        f"Commit {run['commit'] or 'unknown'}, seed {run['seed']}, data {run['data_hash']}, "
        f"{run['wall_time_s']:.0f} s on {run['device']}. All settings are in `config.yaml`, "
        "versions in `run.json`, folds in `splits.csv`.",
        "Research software, not a medical device.",
    ]
    return "\n\n".join(sections) + "\n"


def measures_table(metrics: dict[str, Any]) -> str:
    """Write the measures with their intervals and spread as a Markdown table."""
    lines = [
        "| measure | mean | 95 % interval | sd over repeats | min | max |",
        "|---|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        mean, *spread = (_figure(metrics[key][name]) for key in ("mean", "sd", "min", "max"))
        interval = " to ".join(map(_figure, metrics["interval_95"].get(name, ())))
        lines.append(f"| {label} | " + " | ".join([mean, interval or "–", *spread]) + " |")
    if found := errors_found(metrics):
        interval = " to ".join(map(_figure, found["interval_95"]))
        lines.append(f"| {FOUND} | {_figure(found['auroc'])} | {interval} | – | – | – |")
    return "\n".join(lines)


def errors_found(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """How well the entropy tells wrong cases; None where it is not measured or none is wrong."""
    found = metrics["confidence"].get("errors_found", {}).get("entropy")
    return found if found and found["auroc"] is not None else None


def _markdown(table: dict[str, Any]) -> str:
    lines = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _doubtful_table(ranking: pd.DataFrame) -> str:
    probs = [column for column in ranking.columns if column.startswith(PROB)]
    several = ["num_scans"] if (ranking["num_scans"] > 1).any() else []
    columns = ["rank", "patient_id", "image", *several, "label", *probs, "predicted", "confidence"]
    return markdown_table(ranking[columns].head(DOUBTFUL_ROWS))


def markdown_table(table: pd.DataFrame) -> str:
    """Write a table in Markdown, its floats with three digits."""
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    for row in table.itertuples(index=False):
        cells = (_figure(cell) if isinstance(cell, float) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
