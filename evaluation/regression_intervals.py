"""95 % intervals of a regression's measures and of paired differences: a jackknife over patients.

A patient is left out with all scans and repeats; every measure is a function of sums over
patients, so that this costs nothing. Errors and unexplained variance have their interval on a
logarithmic scale, r on Fisher's, the others on their own; Student's t, the trained models as they
are. What other folds and first weights would give, the spread over repeats shows.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t as student_t

from evaluation.comparison import holm, repeats_as_readers
from evaluation.predictions import CASE
from evaluation.regression import MEASURES, case_sums, measures_of, number_cases

Interval = tuple[float, float]
Scale = tuple[Callable, Callable]
PLAIN: Scale = (np.asarray, np.asarray)
SCALES: dict[str, Scale] = {  # there and back
    "mae": (np.log, np.exp),
    "rmse": (np.log, np.exp),
    "r2": (lambda r2: np.log(1 - r2), lambda x: 1 - np.exp(x)),
    "r": (np.arctanh, np.tanh),
}
ROWS = ["repeat", "patient_id", "image"]


def regression_intervals(predictions: pd.DataFrame) -> dict[str, Interval]:
    """Compute the interval of each measure over patients.

    Args:
        predictions: A predictions table; with repeats the figures are their means.

    Returns:
        By measure, lowest first; NaN where the figure is, or with fewer than three patients.
    """
    whole, without = _jackknife(case_sums(number_cases(predictions)))
    found = {}
    for name in MEASURES:
        there, back = SCALES.get(name, PLAIN)
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = there(whole[name].mean())
            reach = _reach(there(without[name].mean(axis=0)))
            ends = back(middle - reach), back(middle + reach)
        found[name] = (float(np.min(ends)), float(np.max(ends)))
    return found


def difference_interval(first: pd.DataFrame, second: pd.DataFrame, name: str) -> Interval:
    """Compute the interval of a paired difference, `first` less `second`.

    Args:
        first: A predictions table.
        second: A predictions table of the same scans and repeats.
        name: The measure.
    """
    ours, theirs = (_jackknife(case_sums(number_cases(table))) for table in (first, second))
    middle = ours[0][name].mean() - theirs[0][name].mean()
    reach = _reach((ours[1][name] - theirs[1][name]).mean(axis=0))
    return float(middle - reach), float(middle + reach)


def difference_p(first: pd.DataFrame, second: pd.DataFrame, name: str = "mae") -> float:
    """Two-sided p value of an equal measure when patients and trainings are both random.

    Repeats take the place of readers as in Obuchowski and Rockette's analysis (see
    `evaluation.comparison`). With one repeat the luck of the training cannot be seen.
    """
    ours, theirs = (_jackknife(case_sums(number_cases(table))) for table in (first, second))
    difference = ours[0][name] - theirs[0][name]  # (R,)
    without = ours[1][name] - theirs[1][name]  # (R, P)
    num_patients = without.shape[1]
    if num_patients < 2:
        return float("nan")
    moved = (difference[:, None] - without) * np.sqrt((num_patients - 1) / num_patients)
    moved -= moved.mean(axis=1, keepdims=True)
    patients = np.square(moved.mean(axis=0)).sum(keepdims=True)
    degrees = np.array([num_patients - 1.0])
    return repeats_as_readers(difference[:, None], moved[:, None], patients, degrees).item()


def compare_regressions(runs: Mapping[str, pd.DataFrame], reference: str) -> pd.DataFrame:
    """Measure every run, and its paired difference to the reference.

    Args:
        runs: Predictions table of each run, of the same scans on the same folds.
        reference: Name of the run that the others are compared with.

    Returns:
        One row per run, indexed by name. For every measure: <measure> (mean over repeats), _min
        and _max (over repeats), _low and _high (95 % interval), _diff, _diff_low and _diff_high
        (paired difference to the reference, NaN in its own row); p_mae and p_mae_holm, corrected
        for the number of runs compared.

    Raises:
        ValueError: If two runs predicted other scans or targets.
    """
    runs = {name: table.sort_values(ROWS, ignore_index=True) for name, table in runs.items()}
    for name, table in runs.items():
        _refuse_other_scans(name, table, reference, runs[reference])
    rows: dict[str, dict[str, float]] = {}
    for name, table in runs.items():
        figures = measures_of(case_sums(number_cases(table)).sum(axis=1))
        limits = regression_intervals(table)
        row: dict[str, float] = {}
        for measure in MEASURES:
            values, (low, high) = figures[measure], limits[measure]
            row |= {measure: values.mean(), f"{measure}_min": values.min()}
            row |= {f"{measure}_max": values.max(), f"{measure}_low": low, f"{measure}_high": high}
            if name == reference:
                continue
            low, high = difference_interval(table, runs[reference], measure)
            difference = values.mean() - rows_mean(runs[reference], measure)
            row |= {f"{measure}_diff": difference}
            row |= {f"{measure}_diff_low": low, f"{measure}_diff_high": high}
        rows[name] = row
    result = pd.DataFrame.from_dict(rows, orient="index")
    others = [name for name in runs if name != reference]
    p_values = [difference_p(runs[name], runs[reference]) for name in others]
    result.loc[others, "p_mae"] = p_values
    result.loc[others, "p_mae_holm"] = holm(p_values)
    return result


def rows_mean(table: pd.DataFrame, measure: str) -> float:
    """Mean over repeats of one measure."""
    return float(measures_of(case_sums(number_cases(table)).sum(axis=1))[measure].mean())


def _jackknife(
    sums: Float[np.ndarray, "repeats patients 8"],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Each measure of all patients, (R,), and with each patient left out, (R, P)."""
    whole = sums.sum(axis=1)
    return measures_of(whole), measures_of(whole[:, None] - sums)


def _reach(without: Float[np.ndarray, " patients"]) -> float:
    """How far an interval reaches, from the figure with each patient left out."""
    number = len(without)
    if number < 3:
        return float("nan")
    variance = (number - 1) / number * np.square(without - without.mean()).sum()
    return float(student_t.ppf(0.975, number - 1) * np.sqrt(variance))


def _refuse_other_scans(name: str, table: pd.DataFrame, reference: str, its: pd.DataFrame) -> None:
    columns = [*ROWS, "fold", "target"]
    merged = table[columns].merge(its[columns], how="outer", indicator=True)
    if len(strangers := merged[merged["_merge"] != "both"]):
        row = strangers.iloc[0]
        where = name if row["_merge"] == "left_only" else reference
        raise ValueError(
            f"Runs {name} and {reference} did not predict the same scans on the same folds: "
            f"{row['image']!r} of patient {row['patient_id']!r}, repeat {row['repeat']}, fold "
            f"{row['fold']}, target {row['target']:g} is in {where} alone. "
            "Run one again with SPLITS= the other."
        )
    if (CASE in table) != (CASE in its):
        raise ValueError(
            f"Runs {name} and {reference} count cases in other ways (labels_per): their figures "
            "cannot be compared. Run one again with the other's --data.labels_per."
        )
