"""Compare runs on identical folds: paired differences, tests and votes.

Patients are the units of every interval and test; repeats are averaged. No test here knows of the
luck of first weights, which the spread over repeats shows.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from evaluation.predictions import PROB, class_names_of, with_decision
from evaluation.uncertainty import (
    MEASURES,
    auroc_influence,
    bootstrap,
    estimates,
    interval_95,
)

KEY = ["repeat", "patient_id", "image"]


def compare_runs(runs: Mapping[str, pd.DataFrame], reference: str) -> pd.DataFrame:
    """Measure every run, and its paired difference to the reference.

    Args:
        runs: Predictions table of each run, of the same scans on the same folds.
        reference: Name of the run that the others are compared with.

    Returns:
        One row per run, indexed by name. For every measure: <measure> (mean over repeats), _min
        and _max (over repeats), _low and _high (95 % bootstrap interval), _diff, _diff_low and
        _diff_high (paired difference to the reference, NaN in its own row). p_accuracy is from the
        McNemar test, p_auroc from DeLong's, each also _holm, corrected for the number of runs.

    Raises:
        ValueError: If two runs predicted other scans, classes or labels.
    """
    runs = {name: _aligned(table) for name, table in runs.items()}
    for name, table in runs.items():
        _refuse_other_scans(name, table, reference, runs[reference])
    draws = {name: bootstrap(table) for name, table in runs.items()}
    rows = {}
    for name, table in runs.items():
        mean = estimates(table)
        repeats = pd.DataFrame([estimates(part) for _, part in table.groupby("repeat")])
        row: dict[str, float] = {}
        for measure in MEASURES:
            low, high = interval_95(draws[name][measure])
            row |= {
                measure: mean[measure],
                f"{measure}_min": repeats[measure].min(),
                f"{measure}_max": repeats[measure].max(),
                f"{measure}_low": low,
                f"{measure}_high": high,
            }
        rows[name] = row
    result = pd.DataFrame.from_dict(rows, orient="index")
    others = [name for name in runs if name != reference]
    for name in others:
        for measure in MEASURES:
            low, high = interval_95(draws[name][measure] - draws[reference][measure])
            result.loc[name, f"{measure}_diff"] = rows[name][measure] - rows[reference][measure]
            result.loc[name, [f"{measure}_diff_low", f"{measure}_diff_high"]] = low, high
        result.loc[name, "p_accuracy"] = mcnemar_p(runs[name], runs[reference])
        result.loc[name, "p_auroc"] = delong_p(runs[name], runs[reference])
    if others:
        for test in ("p_accuracy", "p_auroc"):
            corrected = multipletests(result.loc[others, test], method="holm")[1]
            result.loc[others, f"{test}_holm"] = corrected
    return result


def delong_p(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Two-sided p value of equal AUROC; for its variance see `auroc_influence`."""
    influence = auroc_influence(first) - auroc_influence(second)
    variance = float(np.square(influence).sum())
    difference = estimates(first)["auroc"] - estimates(second)["auroc"]
    if variance == 0:
        return float(difference == 0)
    return float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def mcnemar_p(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Exact two-sided p value of equal accuracy.

    Under the null hypothesis a patient's lead of the first run over the second, in correct
    predictions over all scans and repeats, is as likely to be the other way round. The
    distribution of the summed leads is computed in full. With one scan per patient and one repeat
    this is McNemar's exact test.

    Args:
        first: A predictions table.
        second: A predictions table of the same scans.
    """
    correct = [
        (table["label"] == table["predicted"]).groupby(table["patient_id"]).sum().astype(int)
        for table in (first, second)
    ]
    leads = (correct[0] - correct[1]).abs()
    observed = abs(int((correct[0] - correct[1]).sum()))
    total = int(leads.sum())
    chances = np.zeros(2 * total + 1)  # of sums -total … total
    chances[total] = 1.0
    for lead in leads[leads > 0]:
        chances = (np.roll(chances, lead) + np.roll(chances, -lead)) / 2
    sums = np.abs(np.arange(-total, total + 1))
    return float(min(chances[sums >= observed].sum(), 1.0))


def soft_vote(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Average the members' outputs, each scaled so that a scan's outputs add up to one."""
    return _vote([_shares(table) for table in map(_aligned, members.values())], members)


def hard_vote(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Give every member one vote for its predicted class; the outputs are shares of votes."""
    votes = []
    for table in map(_aligned, members.values()):
        names = class_names_of(table)
        votes.append(table["predicted"].to_numpy()[:, None] == np.array(names, dtype=object))
    return _vote(votes, members)


def _vote(votes: list[np.ndarray], members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    table = _aligned(next(iter(members.values()))).copy()
    columns = [PROB + name for name in class_names_of(table)]
    table[columns] = np.mean(votes, axis=0)
    return with_decision(table)


def _shares(table: pd.DataFrame) -> np.ndarray:
    outputs = table[[PROB + name for name in class_names_of(table)]].to_numpy(dtype=float)
    return outputs / np.maximum(outputs.sum(axis=1, keepdims=True), 1e-12)


def _aligned(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(KEY, ignore_index=True)


def _refuse_other_scans(name: str, table: pd.DataFrame, reference: str, its: pd.DataFrame) -> None:
    if class_names_of(table) != class_names_of(its):
        raise ValueError(
            f"Run {name} has the classes {class_names_of(table)}, {reference} has "
            f"{class_names_of(its)}. Compare runs of one task, with the classes in one order."
        )
    columns = [*KEY, "fold", "label"]
    merged = table[columns].merge(its[columns], how="outer", indicator=True)
    if len(strangers := merged[merged["_merge"] != "both"]):
        row = strangers.iloc[0]
        where = name if row["_merge"] == "left_only" else reference
        raise ValueError(
            f"Runs {name} and {reference} did not predict the same scans on the same folds: "
            f"{row['image']!r} of patient {row['patient_id']!r}, repeat {row['repeat']}, fold "
            f"{row['fold']}, label {row['label']!r} is in {where} alone. "
            "Run one again with SPLITS= the other."
        )
