"""A comparison of regressions in words and tables."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from evaluation.report.comparison import LEVEL, markdown_frame, p_words, run_subject
from evaluation.report.regression_sentences import figure, interval_words

HEADERS = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "r": "r"}
METHODS = (
    "Intervals are 95 %, by leaving out one patient after the other (jackknife) with Student's t; "
    "differences are paired by patient, the trained models as they are. The p value is of equal "
    "MAE and has the repeats in the place of readers (after Obuchowski and Rockette), so that it "
    "also asks what other folds and first weights would give: the sentences above rest on it. It "
    "is two-sided; Holm's correction is over the runs that are compared with the reference."
)


def number_verdicts(
    comparison: pd.DataFrame,
    reference: str,
    inits: Mapping[str, str | None],
    added_to: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Say of each run whether its error is smaller than that of the reference.

    Args:
        comparison: What `compare_regressions` returned.
        reference: Name of the reference.
        inits: What each run started from, None where that is random weights or nothing.
        added_to: Covariates that a run adds an image to.
    """
    sentences = []
    for name, row in comparison.drop(index=reference).iterrows():
        words = run_subject(
            str(name),
            reference,
            inits,
            added_to,
            surely=bool(row["p_mae_holm"] < LEVEL),
            ahead=bool(row["mae_diff"] < 0),
        )
        sentences.append(
            f"{words} ({name} against {reference}: MAE {_difference(row, 'mae')}, Holm-corrected p "
            f"{p_words(row['p_mae_holm'])}; R² {_difference(row, 'r2')})."
        )
    return sentences


def number_performance_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Give each run a row in words: mean, range over repeats, interval."""
    table = pd.DataFrame(index=comparison.index)
    rows = [row for _, row in comparison.iterrows()]
    for name, header in HEADERS.items():
        table[f"{header} (min–max)"] = [
            f"{figure(name, row[name])} ({figure(name, row[f'{name}_min'])}–"
            f"{figure(name, row[f'{name}_max'])})"
            for row in rows
        ]
        if name in ("mae", "r2"):
            table[f"{header}, 95 % interval"] = [
                interval_words(name, (row[f"{name}_low"], row[f"{name}_high"])) for row in rows
            ]
    return table


def write_number_comparison(
    comparison: pd.DataFrame,
    reference: str,
    inits: Mapping[str, str | None],
    facts: Sequence[str],
    *,
    has_curves: bool,
    added_to: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Compose report.md; see `evaluation.report.comparison.write_comparison`."""
    others = comparison.drop(index=reference)
    differences = pd.DataFrame(index=others.index)
    rows = [row for _, row in others.iterrows()]
    for name in ("mae", "rmse", "r2"):
        differences[f"{HEADERS[name]} difference"] = [_difference(row, name) for row in rows]
    differences["p of MAE (Holm)"] = [
        f"{p_words(row['p_mae'])} ({p_words(row['p_mae_holm'])})" for row in rows
    ]
    sections = [
        "# Comparison",
        *[f"**{words}**" for words in number_verdicts(comparison, reference, inits, added_to)],
        " ".join(facts),
        "## Performance",
        markdown_frame(number_performance_table(comparison)),
        "![Performance of each run](performance.png)",
        f"## Differences to {reference}",
        markdown_frame(differences),
        METHODS,
        *(["![Learning curves](learning_curves.png)"] if has_curves else []),
    ]
    return "\n\n".join(sections) + "\n"


def number_figures(metrics: dict[str, Any]) -> list[str]:
    """Give a run's MAE with its interval, and R²."""
    interval = interval_words("mae", metrics["interval_95"]["mae"])
    mean = metrics["mean"]
    return [f"{figure('mae', mean['mae'])} ({interval})", figure("r2", mean["r2"])]


def paired_words(row: Mapping[Any, float]) -> str:
    """Give the paired difference of the MAE with its interval and p value."""
    return f"{_difference(row, 'mae')}, p {row['p_mae_holm']:.3f}"


def _difference(row: Any, name: str) -> str:
    ends = (row[f"{name}_diff_low"], row[f"{name}_diff_high"])
    value = row[f"{name}_diff"]
    plus = "+" if value > 0 else ""
    return f"{plus}{figure(name, value)} ({interval_words(name, ends)})".replace("-", "−")
