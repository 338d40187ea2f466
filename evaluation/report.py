"""A short report of a cross-validation, as Markdown beside its pictures."""

from typing import Any

import pandas as pd

from evaluation.predictions import PROB

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
OPTIMISTIC = (
    "**Optimistic:** protocol `paper` lets the test patients choose the checkpoint, as MCTL does. "
    "These figures overstate what a new patient would see; use `protocol: nested` for an estimate."
)
DOUBTFUL_ROWS = 10


def write_report(
    metrics: dict[str, Any], ranking: pd.DataFrame, run: dict[str, Any], *, has_curves: bool
) -> str:
    """Compose report.md.

    Args:
        metrics: The content of metrics.json.
        ranking: The ranking table.
        run: The content of run.json.
        has_curves: Whether there is a picture of learning curves.
    """
    mean, intervals = metrics["mean"], metrics["interval_95"]
    low, high = intervals["auroc"]
    num_folds = run["num_cells"] // metrics["num_repeats"]
    kind = "Cross-validation" if num_folds > 1 else "Held-out test"
    sections = [
        f"# {kind} {run['name']}",
        _verdict(metrics),
        f"{metrics['num_scans']} scans of {metrics['num_patients']} patients, "
        f"{_count(metrics['num_repeats'], 'repeat')} of {_count(num_folds, 'fold')}; "
        f"{_who_is_predicted(metrics)} "
        f"{run.get('method') or _start(run)} {run['preprocessing']}",
    ]
    if metrics["protocol"] == "paper":
        sections.append(OPTIMISTIC)
    sections += [
        "## Performance",
        _measures_table(metrics),
        f"AUROC {mean['auroc']:.3f} with a 95 % interval of {low:.3f} to {high:.3f} "
        "(bootstrap over patients). "
        + (
            f"Sensitivity, specificity, PPV, NPV, F1 and AUPRC are those of the class "
            f"`{metrics['positive_class']}`."
            if metrics["positive_class"]
            else "One-against-rest figures are averaged over the classes."
        ),
        "![ROC](roc.png) ![Confusion matrix](confusion.png)",
        "## Which cases to read first",
        f"The {min(DOUBTFUL_ROWS, len(ranking))} most doubtful of {len(ranking)} scans; all are in "
        "`ranking.csv`. Confidence is the highest output minus the second.",
        _doubtful_table(ranking),
        "![Accuracy by coverage](accuracy_by_coverage.png)",
        "## How it was trained",
        *(["![Learning curves](learning_curves.png)"] if has_curves else []),
        f"`{run['command']}`",
        f"Commit {run['commit'] or 'unknown'}, seed {run['seed']}, data {run['data_hash']}, "
        f"{run['wall_time_s']:.0f} s on {run['device']}. All settings are in `config.yaml`, "
        "versions in `run.json`, folds in `splits.csv`.",
        "Research software, not a medical device.",
    ]
    return "\n\n".join(sections) + "\n"


def _start(run: dict[str, Any]) -> str:
    return f"Started from {run['init'] or 'random weights'}."


def _who_is_predicted(metrics: dict[str, Any]) -> str:
    never = metrics["num_untested_patients"]
    if not never:
        return "every scan is predicted by models that were not trained on its patient."
    return (
        "each of them is predicted by models that were not trained on its patient. "
        f"The splits put {_count(never, 'other patient')} into no test part: for training and "
        "choosing the checkpoint alone, they have no prediction."
    )


def _verdict(metrics: dict[str, Any]) -> str:
    low, high = metrics["interval_95"]["auroc"]
    auroc = metrics["mean"]["auroc"]
    if low > 0.5:
        words = "The model tells the classes apart better than chance"
    elif high < 0.5:
        words = "The model does worse than chance: look for swapped labels"
    else:
        words = "This run cannot tell the model from chance"
    return f"**{words}: AUROC {auroc:.3f} (95 % interval {low:.3f} to {high:.3f}).**"


def _measures_table(metrics: dict[str, Any]) -> str:
    lines = ["| measure | mean | sd over repeats | min | max |", "|---|---|---|---|---|"]
    for name, label in LABELS.items():
        figures = (metrics[column][name] for column in ("mean", "sd", "min", "max"))
        lines.append(f"| {label} | " + " | ".join(map(_figure, figures)) + " |")
    return "\n".join(lines)


def _doubtful_table(ranking: pd.DataFrame) -> str:
    probs = [column for column in ranking.columns if column.startswith(PROB)]
    columns = ["rank", "patient_id", "image", "label", *probs, "predicted", "confidence"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in ranking[columns].head(DOUBTFUL_ROWS).itertuples(index=False):
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
