"""Compare runs on identical folds: paired differences, tests and votes.

Patients are the units of every interval and test. Intervals, McNemar's and DeLong's test take the
trained models as they are; Obuchowski and Rockette's asks what other trainings would give.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t as student_t

from evaluation.limits import difference_limits, difference_variance, limits_of
from evaluation.predictions import (
    PROB,
    as_cases,
    class_names_of,
    probs_of,
    scans_are_cases,
    with_decision,
)
from evaluation.uncertainty import (
    MEASURES,
    Repeat,
    estimates,
    influence_of,
    parts_of,
    repeats_of,
    value_of,
)

KEY = ["repeat", "patient_id", "image"]


def compare_runs(runs: Mapping[str, pd.DataFrame], reference: str) -> pd.DataFrame:
    """Measure every run, and its paired difference to the reference.

    Args:
        runs: Predictions table of each run, of the same scans on the same folds.
        reference: Name of the run that the others are compared with.

    Returns:
        One row per run, indexed by name. For every measure: <measure> (mean over repeats), _min
        and _max (over repeats), _low and _high (95 % interval), _diff, _diff_low and
        _diff_high (paired difference to the reference, NaN in its own row). The p values of TESTS,
        each also _holm, corrected for the number of runs compared.

    Raises:
        ValueError: If two runs predicted other scans, classes or labels.
    """
    runs = {name: _aligned(table) for name, table in runs.items()}
    for name, table in runs.items():
        _refuse_other_scans(name, table, reference, runs[reference])
    runs = {name: _aligned(as_cases(table)) for name, table in runs.items()}
    parts = {name: parts_of(repeats_of(table)) for name, table in runs.items()}
    rows = {}
    for name, table in runs.items():
        limits = limits_of(parts[name])
        repeats = pd.DataFrame([estimates(part) for _, part in table.groupby("repeat")])
        row: dict[str, float] = {}
        for measure in MEASURES:
            low, high = limits[measure]
            row |= {
                measure: value_of(parts[name][measure]).item(),
                f"{measure}_min": repeats[measure].min(),
                f"{measure}_max": repeats[measure].max(),
                f"{measure}_low": low.item(),
                f"{measure}_high": high.item(),
            }
        rows[name] = row
    result = pd.DataFrame.from_dict(rows, orient="index")
    others = [name for name in runs if name != reference]
    for name in others:
        limits = difference_limits(parts[name], parts[reference])
        for measure in MEASURES:
            difference = rows[name][measure] - rows[reference][measure]
            result.loc[name, f"{measure}_diff"] = difference
            result.loc[name, [f"{measure}_diff_low", f"{measure}_diff_high"]] = np.ravel(
                limits[measure]
            )
    for test, p_value in TESTS.items():
        p_values = [p_value(runs[name], runs[reference]) for name in others]
        result.loc[others, f"p_{test}"] = p_values
        result.loc[others, f"p_{test}_holm"] = holm(p_values)
    return result


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " tests"]:
    """Correct p values for their number (Holm 1979); statsmodels collects garbage at each call."""
    raw = np.asarray(p_values, float)
    order = raw.argsort()
    steps = raw[order] * np.arange(len(raw), 0, -1)
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def delong_p(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Two-sided p value of equal AUROC, the trained models taken as they are.

    DeLong's test, with patients as units, repeats averaged, and Student's t for the degrees of
    freedom of the smaller class.
    """
    return delong_ps(repeats_of(first), repeats_of(second)).item()


def delong_ps(first: Sequence[Repeat], second: Sequence[Repeat]) -> Float[np.ndarray, "trials"]:
    """Compute DeLong's p value from the repeats of two runs; see `delong_p`."""
    ours, theirs = parts_of(first), parts_of(second)
    difference = value_of(ours["auroc"]) - value_of(theirs["auroc"])
    return _p_values(difference, *difference_variance(ours, theirs, "auroc"))


def obuchowski_rockette_p(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Two-sided p value of equal AUROC when patients and trainings are both random.

    Repeats take the place of readers in the analysis of multi-reader studies (Obuchowski and
    Rockette 1995): the variance of the mean difference is that between repeats plus what the
    patients add to all repeats alike. The degrees of freedom are those of Hillis (2007), who takes
    the patients' part as known; with few patients of a class it is not, and has degrees of freedom
    of its own. With one repeat the luck of the training cannot be seen, and this is DeLong's test.
    """
    return obuchowski_rockette_ps(repeats_of(first), repeats_of(second)).item()


def obuchowski_rockette_ps(
    first: Sequence[Repeat], second: Sequence[Repeat]
) -> Float[np.ndarray, "trials"]:
    """Compute the p value from the repeats of two runs; see `obuchowski_rockette_p`."""
    pairs = [
        (parts_of([ours])["auroc"], parts_of([theirs])["auroc"])
        for ours, theirs in zip(first, second, strict=True)
    ]
    differences = np.array([value_of(ours) - value_of(theirs) for ours, theirs in pairs])
    influence = np.array([influence_of(ours) - influence_of(theirs) for ours, theirs in pairs])
    known = difference_variance(parts_of(first), parts_of(second), "auroc")
    return repeats_as_readers(differences, influence, *known)


def repeats_as_readers(
    differences: Float[np.ndarray, "repeats trials"],
    influence: Float[np.ndarray, "repeats trials patients"],
    patients: Float[np.ndarray, " trials"],
    degrees: Float[np.ndarray, " trials"],
) -> Float[np.ndarray, " trials"]:
    """Compute the p value of a mean difference of 0, as `obuchowski_rockette_p` explains.

    Args:
        differences: Of each repeat.
        influence: Of each patient on each of them.
        patients: Variance that the patients give their mean, the trained models as they are.
        degrees: Its degrees of freedom.
    """
    num_repeats = len(differences)
    if num_repeats == 1:
        return _p_values(differences[0], patients, degrees)
    between = differences.var(axis=0, ddof=1) / num_repeats
    own = np.square(influence).sum(axis=(0, -1))
    joint = np.square(influence.sum(axis=0)).sum(axis=-1)
    shared = np.maximum((joint - own) / (num_repeats * (num_repeats - 1)), 0.0)
    plain = joint / num_repeats**2
    shared *= np.divide(patients, plain, out=np.ones_like(plain), where=plain > 0)
    variance = between + shared
    noise = between**2 / (num_repeats - 1) + shared**2 / degrees
    total = np.divide(variance**2, noise, out=np.full_like(noise, np.inf), where=noise > 0)
    total = np.where(variance < patients, degrees, total)
    return _p_values(differences.mean(axis=0), np.maximum(variance, patients), total)


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
    """Average the members' scores."""
    return _vote([probs_of(table) for table in map(_aligned, members.values())], members)


def hard_vote(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Give every member one vote a case, for its predicted class; the scores are shares of votes.

    Each scan of a patient has the patient's votes.
    """
    votes = []
    for table in map(_aligned, members.values()):
        names = np.array(class_names_of(table), dtype=object)
        key = KEY if scans_are_cases(table) else KEY[:2]
        decided = table[key].merge(as_cases(table)[[*key, "predicted"]], on=key, how="left")
        votes.append(decided["predicted"].to_numpy()[:, None] == names)
    return _vote(votes, members)


def _p_values(
    difference: np.ndarray, variance: np.ndarray, degrees: np.ndarray
) -> Float[np.ndarray, "trials"]:
    error = np.sqrt(variance)
    sizes = np.divide(
        abs(difference), error, out=np.where(difference == 0, 0.0, np.inf), where=error > 0
    )
    return np.where(np.isnan(variance), np.nan, 2 * student_t.sf(sizes, degrees))


def _vote(votes: list[np.ndarray], members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    table = _aligned(next(iter(members.values()))).copy()
    columns = [PROB + name for name in class_names_of(table)]
    table[columns] = np.mean(votes, axis=0)
    return with_decision(table)


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
    units = [
        "each scan a case (labels_per scan)" if scans_are_cases(one) else "each patient a case"
        for one in (table, its)
    ]
    if units[0] != units[1]:
        raise ValueError(
            f"Run {name} counts {units[0]}, {reference} {units[1]}: their figures cannot be "
            "compared. Run one again with the other's --data.labels_per."
        )


TESTS = {
    "mcnemar": mcnemar_p,
    "delong": delong_p,
    "obuchowski_rockette": obuchowski_rockette_p,
}
