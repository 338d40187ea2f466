"""Questions whose answer should be no, and how the answer is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation.intervals import headline_intervals
from evaluation.predictions import as_cases
from evaluation.regression import is_regression, regression_estimates
from evaluation.regression_intervals import regression_intervals
from evaluation.uncertainty import estimates

CONFIDENCE = 0.95


def sanity_row(question: str, predictions: pd.DataFrame, warning: str) -> dict[str, Any]:
    """Answer a question by whether predictions are better than chance.

    Args:
        question: The question.
        predictions: A predictions table of what should not be predictable.
        warning: What to say if it is.

    Returns:
        question, auroc (of numbers r) and interval (in words), verdict, and warning (whether it is
        one).
    """
    if is_regression(predictions):
        figure, chance, value = "r", 0.0, regression_estimates(predictions)["r"]
        low, high = regression_intervals(predictions)["r"]
    else:
        predictions = as_cases(predictions)
        figure, chance, value = "auroc", 0.5, estimates(predictions)["auroc"]
        low, high = headline_intervals(predictions)["auroc"]
    above = bool(low > chance)
    return {
        "question": question,
        figure: f"{value:.3f}",
        "interval": f"{low:.3f} – {high:.3f}",
        "verdict": warning if above else "Not above chance, as it should be.",
        "warning": above,
    }


def false_alarms(num_questions: int, chance: str = "0.5") -> str:
    """Say how often checks warn where nothing is wrong.

    Args:
        num_questions: How many were asked.
        chance: What the figure is by chance: 0.5 of an AUROC, 0 of r.
    """
    share = (1 - CONFIDENCE) / 2
    words = (
        f"Each check gives a false alarm in about {share:.1%} of runs without a fault: its 95 % "
        f"interval then lies above {chance} by chance"
    )
    if num_questions == 1:
        return f"{words}."
    several = 1 - (1 - share) ** num_questions
    return f"{words}. Of {num_questions} checks, at least one does in up to {several:.0%}."


def shuffled_labels(patients: Sequence[str], labels: Sequence[str], seed: int) -> list[str]:
    """Shuffle labels: among patients where each has one label, else among scans.

    Args:
        patients: Patient of each scan, (N,).
        labels: Class of each scan, (N,).
        seed: Seed of the shuffle.
    """
    generator = np.random.default_rng(seed)
    by_patient = dict(zip(patients, labels, strict=True))
    one_each = all(by_patient[who] == label for who, label in zip(patients, labels, strict=True))
    if not one_each:
        return [str(label) for label in generator.permutation(np.array(labels))]
    names = sorted(by_patient)
    drawn = generator.permutation([by_patient[name] for name in names])
    new = dict(zip(names, map(str, drawn), strict=True))
    return [new[who] for who in patients]
