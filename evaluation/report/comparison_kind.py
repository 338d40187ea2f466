"""How runs of one kind are compared: runs that predict classes, and runs that predict a number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.comparison import compare_runs, hard_vote, soft_vote
from evaluation.predictions import ranking_table
from evaluation.regression import is_regression, mean_vote, spread_ranking
from evaluation.regression_intervals import compare_regressions
from evaluation.report import comparison, regression_comparison
from evaluation.report.pictures import draw_performance

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class ComparisonKind:
    """What a comparison of one kind of runs is made of.

    Args:
        compare: Measures the runs and their paired differences to a reference.
        verdicts: Says in words which is better.
        write: Composes report.md.
        table: Gives each run a row in words.
        rank: Makes the ranking of a predictions table.
        votes: Combinations of several runs, by name.
        measures: What is drawn: title and the value that knowing nothing has, if there is one.
        figures: Two figures of a run's metrics.json.
        paired: The paired difference in words.
        titles: Titles of the figures and of the difference.
    """

    compare: Callable[[Tables, str], pd.DataFrame]
    verdicts: Callable[..., list[str]]
    write: Callable[..., str]
    table: Callable[[pd.DataFrame], pd.DataFrame]
    rank: Callable[[pd.DataFrame], pd.DataFrame]
    votes: Mapping[str, Callable[[Tables], pd.DataFrame]]
    measures: Mapping[str, tuple[str, float | None]]
    figures: Callable[[dict[str, Any]], list[str]]
    paired: Callable[[Mapping[Any, float]], str]
    titles: tuple[str, str, str]

    def draw(self, compared: pd.DataFrame, path: Path) -> None:
        """Draw the measures of each run as bars."""
        draw_performance(compared, self.measures, path)


OF_CLASSES = ComparisonKind(
    compare=compare_runs,
    verdicts=comparison.verdicts,
    write=comparison.write_comparison,
    table=comparison.performance_table,
    rank=ranking_table,
    votes={"soft vote": soft_vote, "hard vote": hard_vote},
    measures={"auroc": ("AUROC", 0.5), "balanced_accuracy": ("balanced accuracy", 0.5)},
    figures=comparison.class_figures,
    paired=comparison.paired_words,
    titles=("AUROC", "Balanced accuracy", "Paired AUROC difference"),
)
OF_NUMBERS = ComparisonKind(
    compare=compare_regressions,
    verdicts=regression_comparison.number_verdicts,
    write=regression_comparison.write_number_comparison,
    table=regression_comparison.number_performance_table,
    rank=spread_ranking,
    votes={"mean vote": mean_vote},
    measures={"mae": ("mean absolute error", None), "r2": ("R²", 0.0)},
    figures=regression_comparison.number_figures,
    paired=regression_comparison.paired_words,
    titles=("MAE", "R²", "Paired MAE difference"),
)


def comparison_kind(tables: Tables) -> ComparisonKind:
    """Choose by what the runs predict.

    Args:
        tables: Predictions table of each run.

    Raises:
        ValueError: If some predict classes and others a number.
    """
    numbers = [name for name, table in tables.items() if is_regression(table)]
    if not numbers:
        return OF_CLASSES
    if others := [name for name in tables if name not in numbers]:
        raise ValueError(
            f"Run {numbers[0]} predicts a number, {others[0]} predicts classes: they cannot be "
            "compared. Name runs of one kind."
        )
    return OF_NUMBERS
