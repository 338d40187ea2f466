"""One self-contained HTML page of a run: what a reader, a co-author and a reviewer ask for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from evaluation.predictions import PROB
from evaluation.report.checklist import checklist
from evaluation.report.markdown import LABELS
from evaluation.report.model_card import model_card
from evaluation.report.sentences import (
    calibration_sentence,
    case_sentence,
    confidence_sentences,
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
from evaluation.sanity import false_alarms
from evaluation.subgroups import FIGURES
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
    "performance": {"roc.png": "ROC curves", "confusion.png": "Confusion matrix"},
    "confidence": {"accuracy_by_coverage.png": "Accuracy by share of cases decided"},
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
        suspects: The suspected labels.
        comparison: Sentences, columns and rows about other runs; None where none were named.
        checks: Rows of sanity.json; None where it was not asked.
        pictures: Data URI of each picture by its file name.
        views: Data URI and words for the scans that have a picture, by patient and image.
        views_note: What the pictures show.
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
    return environment.get_template("template.html").render(
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
        who=_sentence(who_is_predicted(metrics)),
        start=start_sentence(run),
        measures=_measures(metrics),
        table_one=table_one(page.tables.cohort, metrics["classes"]),
        by_class=class_table(metrics),
        case=case_sentence(metrics),
        interval=interval_sentence(metrics),
        folds=folds_sentence(metrics),
        dummy=dummy_sentence(metrics),
        headline=headline_sentence(metrics),
        subgroups=[_subgroup(row) for row in metrics["subgroups"]],
        confidence=confidence_sentences(metrics),
        calibration=calibration_sentence(metrics),
        ranking=_ranking(page, names),
        views_note=page.views_note,
        suspects=[
            row | dict(zip(("patient_id", "image"), names[_key(row)], strict=True))
            for row in page.suspects.to_dict("records")
            if row["suspected"]
        ],
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
        false_alarms=false_alarms(len(page.checks or [])),
        provenance=_provenance(page),
        checklist=checklist(page.tables, metrics, run, page.config),
        card=model_card(metrics, run, page.config),
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _code(words: str) -> Markup:
    """Turn `words` in backticks into code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(words))))


def _breakable(name: str) -> Markup:
    """Let a long file name continue in the next line after a separator."""
    return Markup(re.sub(r"([/_\-]|(?=\.))", r"\1<wbr>", str(escape(name))))


def _names(page: Page) -> dict[tuple[str, str], tuple[str, str]]:
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
    classes = page.ranking["label"].value_counts()
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
            + f"{page.metrics['case']}s: "
            + ", ".join(f"{number} {name}" for name, number in sorted(classes.items())),
        },
    ]


def _measures(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, label in LABELS.items():
        rows.append(
            {
                "label": label,
                "cells": [
                    _number(metrics["mean"][name]),
                    _range(metrics["interval_95"].get(name)),
                    *(_number(metrics[key][name]) for key in ("sd", "min", "max")),
                ],
            }
        )
    return rows


def _subgroup(row: dict[str, Any]) -> dict[str, Any]:
    auroc, *others = (_number(row.get(name)) for name in FIGURES)
    interval = _range((row.get("auroc_low"), row.get("auroc_high")))
    sizes = {name: f"{row[name]:.0f}" for name in ("num_patients", "num_scans")}
    return row | sizes | {"cells": [auroc, interval, *others]}


def _ranking(page: Page, names: Mapping[tuple[str, str], tuple[str, str]]) -> dict[str, Any]:
    ranking = page.ranking
    probs = [column for column in ranking.columns if column.startswith(PROB)]
    figures = [*probs, "confidence"]
    if page.metrics["num_repeats"] > 1:
        figures += ["confidence_sd", "flips"]
    columns = ["rank", "patient", "scan", "label", "predicted", *figures]
    rows = []
    for row in ranking.to_dict("records"):
        patient, image = names[_key(row)]
        view, alt = page.views.get(_key(row), ("", ""))
        if row["num_scans"] > 1:
            image += f" and {row['num_scans'] - 1} more"
        cells = [str(row["rank"]), patient, image, row["label"], row["predicted"]]
        cells += [f"{row[name]:.3f}" for name in figures]
        wrong = row["label"] != row["predicted"]
        rows.append({"cells": cells, "view": view, "alt": alt, "wrong": wrong})
    titles = [name.removeprefix(PROB) if name in probs else name for name in columns]
    titles = ["sd" if name == "confidence_sd" else name for name in titles]
    return {"columns": titles, "numbers": [0, *range(5, len(columns))], "rows": rows}


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


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _range(interval: Sequence[float | None] | None) -> str:
    if interval is None or None in interval or interval[0] != interval[0]:
        return "–"
    return f"{interval[0]:.3f} – {interval[1]:.3f}"
