"""Doubt: entropy and mutual information of several predictions of a case; does it find errors?

With p the mean over predictions (models, dropout samples, augmented copies) of a case's shares of
the classes, H(p) = -Σ p ln p is the entropy of the mean, in nats: all doubt. The mean of the H of
the single predictions is the doubt that each of them has; what is left, I = H(p) - mean H, is the
mutual information of class and model: how far the predictions contradict each other (Houlsby et
al. 2011; Gal 2016, section 3.3.2; Smith and Gal 2018). A case is the doubtful kind that more
training patients would help if I is large, and one that looks like both classes if I is small.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import entr

from evaluation.intervals import headline_intervals
from evaluation.predictions import PROB, class_names_of, probs_of, with_decision
from evaluation.uncertainty import estimates

SCORES = ("entropy", "mutual_information")


def entropy(probs: Float[np.ndarray, "*cases classes"]) -> Float[np.ndarray, "*cases"]:
    """Compute the entropy in nats, 0 to ln K, of shares that add up to 1."""
    return entr(probs).sum(-1)


def doubt_of(
    probs: Float[np.ndarray, "samples cases classes"],
) -> dict[str, Float[np.ndarray, " cases"]]:
    """Compute each of SCORES from several predictions of each case.

    Args:
        probs: Shares of the classes, (S, N, K).
    """
    return doubt_of_means(probs.mean(0), entropy(probs).mean(0))


def doubt_of_means(
    probs: Float[np.ndarray, "cases classes"], each: Float[np.ndarray, " cases"]
) -> dict[str, Float[np.ndarray, " cases"]]:
    """Compute each of SCORES where the predictions of a case are averaged already.

    Args:
        probs: Mean shares of the classes, (N, K).
        each: Mean entropy of the single predictions in nats, (N,).
    """
    total = entropy(probs)
    return {"entropy": total, "mutual_information": np.maximum(total - each, 0)}


def errors_found(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure whether doubt finds the errors: AUROC of each of SCORES for cases that are wrong.

    The repeats are the predictions of a case; its error is that of their mean.

    Args:
        predictions: One row per case and repeat.

    Returns:
        num_errors, and by score auroc and interval_95 over patients, NaN where no case is wrong or
        all are; the mutual information is None with one repeat.
    """
    key = ["patient_id", "image", "label"]
    names, probs = class_names_of(predictions), probs_of(predictions)
    columns = [PROB + name for name in names]
    single = predictions[key].assign(**dict(zip(columns, probs.T, strict=True)))
    cases = with_decision(single.assign(each=entropy(probs)).groupby(key).mean().reset_index())
    wrong = cases["predicted"] != cases["label"]
    found: dict[str, Any] = {"num_errors": int(wrong.sum()), **dict.fromkeys(SCORES)}
    scores = doubt_of_means(probs_of(cases), cases["each"].to_numpy())
    for name in SCORES if predictions["repeat"].nunique() > 1 else SCORES[:1]:
        share = np.clip(scores[name] / np.log(len(names)), 0, 1)
        table = cases[["patient_id", "image"]].assign(repeat=0, fold=0)
        table["label"] = np.where(wrong, "wrong", "right")
        table = with_decision(table.assign(prob_right=1 - share, prob_wrong=share))
        interval = headline_intervals(table)["auroc"]
        found[name] = {"auroc": estimates(table)["auroc"], "interval_95": interval}
    return found
