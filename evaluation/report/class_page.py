"""What the page of a classification shows: measures, classes, subgroups, the ranking."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.predictions import PROB
from evaluation.report.markdown import FOUND, LABELS, errors_found
from evaluation.report.sentences import (
    calibration_sentence,
    case_sentence,
    confidence_sentences,
    dummy_sentence,
    folds_sentence,
    headline_sentence,
    interval_sentence,
)
from evaluation.report.tables import class_table, table_one
from evaluation.subgroups import FIGURES

Names = Mapping[tuple[str, str], tuple[str, str]]  # by patient and image


def class_page(
    metrics: dict[str, Any],
    ranking: pd.DataFrame,
    cohort: pd.DataFrame,
    names: Names,
    views: Names,
) -> dict[str, Any]:
    """Gather what the page of a classification shows.

    Args:
        metrics: The content of metrics.json.
        ranking: The ranking table.
        cohort: The run's cohort.csv.
        names: Patient and image as the page shows them.
        views: Data URI and words for the scans that have a picture.
    """
    return {
        "measures": _measures(metrics),
        "table_one": table_one(cohort, metrics["classes"]),
        "by_class": class_table(metrics),
        "case": case_sentence(metrics),
        "interval": interval_sentence(metrics),
        "folds": folds_sentence(metrics),
        "dummy": dummy_sentence(metrics),
        "headline": headline_sentence(metrics),
        "subgroups": [_subgroup(row) for row in metrics["subgroups"]],
        "confidence": confidence_sentences(metrics),
        "calibration": calibration_sentence(metrics),
        "ranking": _ranking(metrics, ranking, names, views),
    }


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
    if found := errors_found(metrics):
        cells = [_number(found["auroc"]), _range(found["interval_95"]), "–", "–", "–"]
        rows.append({"label": FOUND, "cells": cells})
    return rows


def _subgroup(row: dict[str, Any]) -> dict[str, Any]:
    auroc, *others = (_number(row.get(name)) for name in FIGURES)
    interval = _range((row.get("auroc_low"), row.get("auroc_high")))
    sizes = {name: f"{row[name]:.0f}" for name in ("num_patients", "num_scans")}
    return row | sizes | {"cells": [auroc, interval, *others]}


def _ranking(
    metrics: dict[str, Any], ranking: pd.DataFrame, names: Names, views: Names
) -> dict[str, Any]:
    probs = [column for column in ranking.columns if column.startswith(PROB)]
    figures = [*probs, "confidence"]
    if metrics["num_repeats"] > 1:
        figures += ["confidence_sd", "flips"]
    columns = ["rank", "patient", "scan", "label", "predicted", *figures]
    rows = []
    for row in ranking.to_dict("records"):
        key = row["patient_id"], row["image"]
        patient, image = names[key]
        view, alt = views.get(key, ("", ""))
        if row["num_scans"] > 1:
            image += f" and {row['num_scans'] - 1} more"
        cells = [str(row["rank"]), patient, image, row["label"], row["predicted"]]
        cells += [f"{row[name]:.3f}" for name in figures]
        wrong = row["label"] != row["predicted"]
        rows.append({"cells": cells, "view": view, "alt": alt, "wrong": wrong})
    titles = [name.removeprefix(PROB) if name in probs else name for name in columns]
    titles = ["sd" if name == "confidence_sd" else name for name in titles]
    return {"columns": titles, "numbers": [0, *range(5, len(columns))], "rows": rows}


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _range(interval: Sequence[float | None] | None) -> str:
    if interval is None or None in interval or interval[0] != interval[0]:
        return "–"
    return f"{interval[0]:.3f} – {interval[1]:.3f}"
