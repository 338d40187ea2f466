"""How the AUROC grows with the number of training patients, and what more would bring."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from evaluation.comparison import compare_runs
from evaluation.predictions import as_cases
from evaluation.uncertainty import estimates

MIN_POINTS = 3  # of a curve, to look beyond it
PERFECT = 1e-3  # smallest loss of AUROC that is told from none


def learning_curve(arms: Mapping[str, Mapping[float, pd.DataFrame]]) -> pd.DataFrame:
    """Measure every arm at every share of the training patients.

    Args:
        arms: By name and share the out-of-fold predictions, on the same folds; differences are to
            the first arm.

    Returns:
        One row per arm and share, in order: arm, share, auroc, low, high (95 % interval over
        patients), sd (over repeats; NaN for one), and diff, diff_low, diff_high to the first arm
        at the same share (NaN in its own rows).
    """
    first = next(iter(arms))
    rows = []
    for share in sorted(arms[first]):
        table = compare_runs({name: arm[share] for name, arm in arms.items()}, first)
        for name in arms:
            found = table.loc[name]
            row = {"arm": name, "share": share, "auroc": found["auroc"]}
            row |= {side: found[f"auroc_{side}"] for side in ("low", "high")}
            row["sd"] = pd.Series(_of_repeats(arms[name][share])).std()
            row |= {each: found.get(f"auroc_{each}") for each in ("diff", "diff_low", "diff_high")}
            rows.append(row)
    table = pd.DataFrame(rows)
    order = {name: place for place, name in enumerate(arms)}
    return table.sort_values(["arm", "share"], key=lambda v: v.replace(order), ignore_index=True)


def gain_of_twice(arm: Mapping[float, pd.DataFrame]) -> tuple[float, float, float] | None:
    """Extrapolate what twice the training patients would add to the AUROC.

    The loss 1 - AUROC is taken to fall as a power of the number of patients; the power law is
    fitted to the means of all repeats, and to each repeat for the interval.

    Args:
        arm: Out-of-fold predictions by share of the training patients.

    Returns:
        Gain and its 95 % interval over repeats (not over patients); None with fewer than
        MIN_POINTS shares or two repeats.
    """
    shares = sorted(arm)
    repeats = np.array([_of_repeats(arm[share]) for share in shares])  # (shares, repeats)
    if len(shares) < MIN_POINTS or repeats.shape[1] < 2:
        return None
    gains = np.array([_gain(shares, each) for each in repeats.T])
    mean = _gain(shares, repeats.mean(axis=1))
    reach = student_t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return mean, mean - reach, mean + reach


def learning_curve_sentences(
    curve: pd.DataFrame, gains: Mapping[str, tuple[float, float, float] | None]
) -> list[str]:
    """Tell in words what more patients would bring, and where an arm is ahead of the first.

    Args:
        curve: From `learning_curve`.
        gains: From `gain_of_twice`, by arm.
    """
    sentences = []
    for name, gain in gains.items():
        if gain is None:
            sentences.append(f"{name}: too few shares or repeats to look beyond the curve.")
            continue
        mean, low, high = gain
        sentences.append(
            f"{name}: if 1 - AUROC falls as a power of the number of patients, twice as many would "
            f"bring {mean:+.3f} (95 % interval over repeats {low:+.3f} to {high:+.3f}); that is an "
            "extrapolation."
        )
    for name in [each for each in gains if each != next(iter(gains))]:
        rows = curve[curve["arm"] == name]
        ahead = [f"{share:.0%}" for share in rows.loc[rows["diff_low"] > 0, "share"]]
        behind = [f"{share:.0%}" for share in rows.loc[rows["diff_high"] < 0, "share"]]
        words = [f"is ahead at {', '.join(ahead)} of the patients"] if ahead else []
        words += [f"is behind at {', '.join(behind)}"] if behind else []
        sentences.append(
            f"{name} {' and '.join(words) or 'is neither ahead nor behind at any share'} "
            f"(95 % intervals of the paired differences to {next(iter(gains))})."
        )
    return sentences


def _of_repeats(predictions: pd.DataFrame) -> list[float]:
    return [estimates(rows)["auroc"] for _, rows in as_cases(predictions).groupby("repeat")]


def _gain(shares: Sequence[float], aurocs: np.ndarray) -> float:
    losses = np.log(np.maximum(1 - aurocs, PERFECT))
    slope, level = np.polyfit(np.log(shares), losses, 1)
    return float(np.exp(level) - np.exp(level + slope * np.log(2)))
