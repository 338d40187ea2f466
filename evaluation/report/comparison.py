"""A comparison in words and tables: Markdown for reading, LaTeX for the paper."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

TABLE_3 = ("accuracy", "sensitivity", "specificity")  # MCTL Table 3: min, mean, max over repeats
HEADERS = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
}
LEVEL = 0.05
METHODS = (
    "Intervals are 95 %, with patients as units and Student's t, whose degrees of freedom come "
    "from the class with few patients: Wilson's for a figure; for a difference, which is paired "
    "by patient, its standard error. McNemar's exact test (of accuracy) and DeLong's (of AUROC, "
    "for clustered scans) take the trained models as they are; Obuchowski and Rockette's (of "
    "AUROC) has the repeats in the place of readers and also asks what other folds and first "
    "weights would give: the sentences above rest on it. p values are two-sided; Holm's "
    "correction is over the runs that are compared with the reference."
)
P_COLUMNS = {
    "auroc": {"delong": "DeLong", "obuchowski_rockette": "Obuchowski–Rockette"},
    "accuracy": {"mcnemar": "McNemar"},
    "balanced_accuracy": {},
}


def performance_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Give each run a row in words: mean and, in brackets, the range over repeats or an interval.

    Args:
        comparison: What `compare_runs` returned.
    """
    table = pd.DataFrame(index=comparison.index)
    rows = [row for _, row in comparison.iterrows()]
    for measure, header in HEADERS.items():
        table[f"{header} (min–max)"] = [_with_range(row, measure) for row in rows]
        if measure not in TABLE_3:
            table[f"{header}, 95 % interval"] = [
                f"{row[f'{measure}_low']:.3f}–{row[f'{measure}_high']:.3f}" for row in rows
            ]
    return table


def difference_table(comparison: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Give each run but the reference a row in words: differences, intervals, p values."""
    others = comparison.drop(index=reference)
    table = pd.DataFrame(index=others.index)
    for measure, tests in P_COLUMNS.items():
        table[f"{HEADERS[measure]} difference"] = [
            _difference(row, measure) for _, row in others.iterrows()
        ]
        for test, title in tests.items():
            table[f"p {title} (Holm)"] = [
                f"{p_words(p)} ({p_words(corrected)})"
                for p, corrected in others[[f"p_{test}", f"p_{test}_holm"]].to_numpy()
            ]
    return table


def verdicts(
    comparison: pd.DataFrame,
    reference: str,
    inits: Mapping[str, str | None],
    added_to: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Say of each run whether it is better than the reference, and whether transfer helped.

    Args:
        comparison: What `compare_runs` returned.
        reference: Name of the reference.
        inits: What each run started from, None where that is random weights or nothing.
        added_to: Runs that see an image next to the very covariates that the reference sees alone,
            with the names of these.
    """
    sentences = []
    for name, row in comparison.drop(index=reference).iterrows():
        p_value = row["p_obuchowski_rockette_holm"]
        ahead = bool(row["auroc_diff"] > 0)
        words = run_subject(
            str(name), reference, inits, added_to, surely=bool(p_value < LEVEL), ahead=ahead
        )
        sentences.append(
            f"{words} ({name} against {reference}: AUROC "
            f"{_difference(row, 'auroc')}, Holm-corrected p {p_words(p_value)}; balanced "
            f"accuracy {_difference(row, 'balanced_accuracy')})."
        )
    return sentences


def run_subject(
    name: str,
    reference: str,
    inits: Mapping[str, str | None],
    added_to: Mapping[str, str],
    *,
    surely: bool,
    ahead: bool,
) -> str:
    """Begin the sentence on a run: what it is, and whether it is better than the reference.

    Args:
        name: Name of the run.
        reference: Name of the reference.
        inits: What each run started from, None where that is random weights or nothing.
        added_to: Covariates that a run adds an image to.
        surely: Whether there is a difference beyond chance.
        ahead: Whether it is in favour of the run.
    """
    init = inits.get(name)
    if known := added_to.get(name):
        subject = "The image"
        words = f"adds to {known}" if ahead else f"makes {known} worse"
        unsure = f"adds nothing to {known} that could be told from chance"
    elif init and not inits.get(reference):
        subject = f"Transfer from {init}"
        words = "helped" if ahead else "did harm"
        unsure = "did neither help nor harm beyond chance"
    else:
        subject = name
        words = f"is {'better' if ahead else 'worse'} than {reference}"
        unsure = f"cannot be told from {reference}"
    return f"{subject} {words if surely else unsure}"


def class_figures(metrics: dict[str, Any]) -> list[str]:
    """Give a run's AUROC with its interval, and balanced accuracy."""
    low, high = metrics["interval_95"]["auroc"]
    mean = metrics["mean"]
    return [f"{mean['auroc']:.3f} ({low:.3f} – {high:.3f})", f"{mean['balanced_accuracy']:.3f}"]


def paired_words(row: Mapping[Any, float]) -> str:
    """Give the paired difference of the AUROC with its interval and p value."""
    return (
        f"{row['auroc_diff']:+.3f} ({row['auroc_diff_low']:+.3f} – "
        f"{row['auroc_diff_high']:+.3f}), p {row['p_obuchowski_rockette_holm']:.3f}"
    )


def write_comparison(
    comparison: pd.DataFrame,
    reference: str,
    inits: Mapping[str, str | None],
    facts: Sequence[str],
    *,
    has_curves: bool,
    added_to: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Compose report.md of a comparison.

    Args:
        comparison: What `compare_runs` returned.
        reference: Name of the reference.
        inits: What each run started from.
        facts: Sentences about the data, the folds and the votes.
        has_curves: Whether there is a picture of learning curves.
        added_to: See `verdicts`.
    """
    sections = [
        "# Comparison",
        *[f"**{words}**" for words in verdicts(comparison, reference, inits, added_to)],
    ]
    sections += [" ".join(facts), "## Performance", markdown_frame(performance_table(comparison))]
    sections += ["![Performance of each run](performance.png)"]
    sections += [f"## Differences to {reference}"]
    sections += [markdown_frame(difference_table(comparison, reference)), METHODS]
    if has_curves:
        sections += ["![Learning curves](learning_curves.png)"]
    return "\n\n".join(sections) + "\n"


def latex_table(performance: pd.DataFrame) -> str:
    """Format a table of words for a paper; needs the package booktabs."""
    table = performance.rename(columns=lambda name: name.replace("–", "--"))
    return table.map(lambda cell: cell.replace("–", "--")).to_latex(
        escape=True, column_format="l" + "c" * table.shape[1]
    )


def _with_range(row: pd.Series, measure: str) -> str:
    return f"{row[measure]:.3f} ({row[measure + '_min']:.3f}–{row[measure + '_max']:.3f})"


def _difference(row: pd.Series, measure: str) -> str:
    low, high = row[f"{measure}_diff_low"], row[f"{measure}_diff_high"]
    return f"{row[f'{measure}_diff']:+.3f} ({low:+.3f} to {high:+.3f})".replace("-", "−")


def p_words(value: float) -> str:
    """Write a p value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown_frame(table: pd.DataFrame) -> str:
    """Write a table of words, indexed by run, in Markdown."""
    lines = ["| run | " + " | ".join(table.columns) + " |", "|---" * (table.shape[1] + 1) + "|"]
    for name, row in table.iterrows():
        lines.append("| " + " | ".join([str(name), *row]).replace("\n", " ") + " |")
    return "\n".join(lines)
