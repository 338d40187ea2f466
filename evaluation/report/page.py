"""One self-contained HTML page of a run: what a reader, a co-author and a reviewer ask for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from evaluation.report.checklist import checklist
from evaluation.report.class_page import Names, class_page
from evaluation.report.model_card import model_card
from evaluation.report.regression import number_flow, number_page, target_sentence
from evaluation.report.sentences import (
    is_number,
    optimism_sentence,
    start_sentence,
    verdict,
    who_is_predicted,
)
from evaluation.sanity import false_alarms
from evaluation.summary import RunTables

SECTIONS = {
    "patients": "Patients",
    "performance": "Performance",
    "ranking": "Ranking",
    "calibration": "Calibration",
    "curves": "Curves",
    "comparison": "Comparison",
    "sanity": "Sanity checks",
    "provenance": "Data and environment",
    "checklist": "Checklist",
    "card": "Model card",
}
PICTURES = {  # section: file and what it shows
    "performance": {
        "roc.png": "ROC curves",
        "confusion.png": "Confusion matrix",
        "predicted.png": "Predicted against true numbers",
        "errors.png": "Error against the true number, with its line",
    },
    "confidence": {
        "accuracy_by_coverage.png": "Accuracy by share of cases decided",
        "spread.png": "Absolute error by spread over repeats",
    },
    "calibration": {"reliability.png": "Predicted probability against the share that came true"},
    "curves": {"learning_curves.png": "Loss and validation accuracy by epoch"},
}


@dataclass(frozen=True)
class Page:
    """What a report is made of.

    Args:
        tables: The run's tables.
        metrics: The content of metrics.json.
        run: The content of run.json.
        config: The content of config.yaml.
        ranking: The ranking table.
        suspects: The suspected labels; none of a regression.
        comparison: Sentences, columns and rows about other runs; None where none were named.
        checks: Rows of sanity.json; None where it was not asked.
        pictures: Data URI of each picture by its file name.
        views: Data URI and words for the scans that have a picture, by patient and image.
        views_note: What the pictures show.
        mean_maps: Title, data URI and words of the mean map of each predicted class.
        anonymous: Replace patient ids and file names by numbers.
    """

    tables: RunTables
    metrics: dict[str, Any]
    run: dict[str, Any]
    config: dict[str, Any]
    ranking: pd.DataFrame
    suspects: pd.DataFrame
    comparison: dict[str, Any] | None = None
    checks: list[dict[str, Any]] | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    views_note: str = ""
    mean_maps: Sequence[tuple[str, str, str]] = ()
    anonymous: bool = False


def render_report(page: Page) -> str:
    """Compose report.html."""
    metrics, run = page.metrics, page.run
    if page.anonymous and run["init"]:
        run = run | {"init": "another run"}
    names = _names(page)
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _code
    environment.filters["breakable"] = _breakable
    number = is_number(metrics)
    compose = number_page if number else class_page
    template = environment.get_template("regression.html" if number else "template.html")
    return template.render(
        **compose(metrics, page.ranking, page.tables.cohort, names, page.views),
        suspects=_suspects(page, names),
        checked={"key": "r", "title": "r"} if number else {"key": "auroc", "title": "AUROC"},
        kind="Cross-validation"
        if run["num_fold_runs"] > metrics["num_repeats"]
        else "Held-out test",
        run=run,
        metrics=metrics,
        sections=[
            (key, title)
            for key, title in SECTIONS.items()
            if key != "curves" or "learning_curves.png" in page.pictures
        ],
        verdict=verdict(metrics),
        optimism=optimism_sentence(metrics) if metrics["protocol"] == "paper" else "",
        external=run.get("external", []),
        sanity_warnings=[row["verdict"] for row in page.checks or [] if row["warning"]],
        flow=_flow(page),
        who=_sentence(f"{who_is_predicted(metrics)} {target_sentence(run)}".strip()),
        start=start_sentence(run),
        views_note=page.views_note,
        mean_maps=page.mean_maps,
        pictures={
            section: [
                {"data": page.pictures[name], "alt": words}
                for name, words in files.items()
                if name in page.pictures
            ]
            for section, files in PICTURES.items()
        },
        comparison=page.comparison,
        checks=page.checks,
        false_alarms=false_alarms(len(page.checks or []), "0" if number else "0.5"),
        provenance=_provenance(page),
        checklist=checklist(page.tables, metrics, run, page.config),
        card=model_card(metrics, run, page.config),
    )


def _suspects(page: Page, names: Names) -> list[dict[Any, Any]]:
    return [
        {**row, "patient_id": names[_key(row)][0], "image": names[_key(row)][1]}
        for row in page.suspects.to_dict("records")
        if row["suspected"]
    ]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _code(words: str) -> Markup:
    """Turn `words` in backticks into code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(words))))


def _breakable(name: str) -> Markup:
    """Let a long file name continue in the next line after a separator."""
    return Markup(re.sub(r"([/_\-]|(?=\.))", r"\1<wbr>", str(escape(name))))


def _names(page: Page) -> Names:
    """Patient and image as the page shows them."""
    scans = list(zip(page.ranking["patient_id"], page.ranking["image"], strict=True))
    if not page.anonymous:
        return {scan: scan for scan in scans}
    numbers = {name: n for n, name in enumerate(sorted({who for who, _ in scans}), 1)}
    return {
        scan: (f"patient {numbers[scan[0]]}", f"scan {n}")
        for n, scan in enumerate(sorted(scans), 1)
    }


def _key(row: Mapping[Any, Any]) -> tuple[str, str]:
    return row["patient_id"], row["image"]


def _flow(page: Page) -> list[dict[str, Any]]:
    splits, cohort = page.tables.splits, page.tables.cohort
    sizes = splits.groupby(["repeat", "fold", "part"]).size().unstack(fill_value=0).mean()
    parts = {"train": "train", "val": "validate", "test": "are tested"}
    words = ", ".join(f"{sizes[part]:.3g} {what}" for part, what in parts.items() if part in sizes)
    if is_number(page.metrics):
        outcome = number_flow(page.metrics)
    else:
        classes = page.ranking["label"].value_counts()
        outcome = f"{page.metrics['case']}s: " + ", ".join(
            f"{number} {name}" for name, number in sorted(classes.items())
        )
    num_repeats = page.metrics["num_repeats"]
    return [
        {
            "number": cohort["patient_id"].nunique(),
            "words": f"patients with {len(cohort)} scans in the cohort table",
        },
        {
            "number": f"{page.run['num_fold_runs'] // num_repeats} × {num_repeats}",
            "words": f"folds × repeats; patients of each: {words}",
        },
        {
            "number": page.metrics["num_patients"],
            "words": f"patients with {page.metrics['num_scans']} scans predicted out of fold; "
            + outcome,
        },
    ]


def _provenance(page: Page) -> list[tuple[str, str]]:
    run = page.run
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    hashes = ", ".join(f"{name} {value}" for name, value in run.get("file_hashes", {}).items())
    command = run["command"]
    if page.anonymous:  # paths may hold names
        command = "(left out)"
    return [
        ("Command", command),
        ("Started", run["started"]),
        ("Commit", run["commit"] or "unknown"),
        ("Versions", versions),
        ("Device, time", f"{run['device']}, {run['wall_time_s']:.0f} s"),
        ("Seed", str(run["seed"])),
        ("Hash of the data", run["data_hash"]),
        ("Hashes of the files", hashes),
    ]
