"""What the figures of a run mean, in words; every report says the same."""

from typing import Any

from evaluation.report.regression_sentences import (
    number_headline,
    number_verdict,
    slope_sentence,
    unit_number,
)


def is_number(metrics: dict[str, Any]) -> bool:
    """Whether the figures are of a regression."""
    return metrics.get("task") == "regression"


def headline(metrics: dict[str, Any]) -> str:
    """Give the main figures in one line, for the terminal."""
    optimistic = " (optimistic: protocol paper)" if metrics["protocol"] == "paper" else ""
    if is_number(metrics):
        return f"{number_headline(metrics)}{optimistic}."
    mean, (low, high) = metrics["mean"], metrics["interval_95"]["auroc"]
    return (
        f"AUROC {mean['auroc']:.3f} (95 % interval {low:.3f} to {high:.3f}), balanced accuracy "
        f"{mean['balanced_accuracy']:.3f}{optimistic}."
    )


def outcome_sentence(metrics: dict[str, Any]) -> str:
    """Say what is predicted."""
    if not is_number(metrics):
        return f"Classes {', '.join(metrics['classes'])}."
    its = metrics["target"]
    return (
        f"A number: {unit_number(its['min'])} to {unit_number(its['max'])} in the predicted cases, "
        f"mean {unit_number(its['mean'])}, sd {unit_number(its['sd'])}."
    )


def verdict(metrics: dict[str, Any]) -> str:
    """Say whether the model tells the classes apart, or predicts better than the mean."""
    if is_number(metrics):
        return number_verdict(metrics)
    low, high = metrics["interval_95"]["auroc"]
    auroc = metrics["mean"]["auroc"]
    if low > 0.5:
        words = "The model tells the classes apart better than chance"
    elif high < 0.5:
        words = "The model does worse than chance: look for swapped labels"
    else:
        words = "This run cannot tell the model from chance"
    return f"{words}: AUROC {auroc:.3f} (95 % interval {low:.3f} to {high:.3f})."


INTERVALS = "Wilson's, with patients as units and Student's t"


def interval_sentence(metrics: dict[str, Any]) -> str:
    """Say how the intervals of the figures were made, and where others are."""
    return (
        f"Intervals: 95 %, {INTERVALS}; measures without one have “–”. DeLong's, Wilson's and "
        "Clopper and Pearson's are in `metrics.json`."
    )


def case_sentence(metrics: dict[str, Any]) -> str:
    """Say what a case is, and how the figures read scan by scan."""
    if metrics["case"] == "scan":
        if metrics["num_scans"] == metrics["num_patients"]:
            return "Each patient has one scan."
        return "Each scan is a case, since a patient's scans may have different labels."
    if metrics["per_scan"] is None:
        return "Each patient is a case, with one scan."
    figures = metrics["per_scan"]["mean"]
    names = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
    words = ", ".join(f"{label} {_figure(figures[name])}" for name, label in names.items())
    return (
        f"Each patient is a case: the outputs of its scans are averaged. Scan by scan "
        f"({metrics['num_scans']} scans): {words}."
    )


def folds_sentence(metrics: dict[str, Any]) -> str:
    """Compare the AUROC pooled over folds with that inside of folds."""
    within = metrics["auroc_within_folds"]
    pooled = f"The AUROC above pools the folds of a repeat ({_figure(metrics['mean']['auroc'])})"
    if not within["num_folds"]:
        return f"{pooled}; no fold has cases of every class, so there is none inside of folds."
    spread = "" if within["sd"] is None else f" ± {within['sd']:.3f}"
    return (
        f"{pooled}; the mean of the AUROCs inside of {count(within['num_folds'], 'fold')} with "
        f"cases of every class is {within['mean']:.3f}{spread}. Where it is clearly higher, models "
        "of different folds lean to different classes."
    )


def headline_sentence(metrics: dict[str, Any]) -> str:
    """Say which class the one-against-rest figures are about."""
    if metrics["positive_class"]:
        return (
            "Sensitivity, specificity, PPV, NPV, F1 and AUPRC are those of the class "
            f"`{metrics['positive_class']}`."
        )
    return "One-against-rest figures are averaged over the classes."


def optimism_sentence(metrics: dict[str, Any]) -> str:
    """Say what protocol `paper` does to the figures, and by how much here."""
    words = (
        "protocol `paper` lets the test patients choose the checkpoint, as MCTL does. These "
        "figures overstate what a new patient would see; use `protocol: nested` for an estimate."
    )
    if metrics["optimism"] is not None:
        words += (
            f" Measured here: at the chosen epochs the accuracy is {metrics['optimism']:.3f} "
            "higher than at the last ones, which nobody chose."
        )
    return words


def dummy_sentence(metrics: dict[str, Any]) -> str:
    """Say where chance lies on these folds."""
    dummy = metrics["dummy_auroc"]
    words = (
        f"A model that only knows the shares of the classes in its training part would reach AUROC "
        f"{dummy:.3f} on these folds"
    )
    if dummy > 0.4995:
        return f"{words}: that is chance here."
    words += ", not 0.5: predictions pooled over folds are biased downwards."
    if dummy < 0.3:
        words += (
            " With folds this small the pooled AUROC is no fair measure: repeated stratified "
            "k-fold (`--data.splits.scheme=k-fold`) is; show both."
        )
    return words


def confidence_sentences(metrics: dict[str, Any]) -> list[str]:
    """Say what confidence is worth, how firm the order is, and whose labels to look at."""
    figures, case = metrics["confidence"], metrics["case"]
    reach = " and ".join(
        f"{share:.0%} with at most {float(error):.0%} errors"
        for error, share in figures["coverage_at_error"].items()
    )
    sentences = [
        f"Deciding the most confident {case}s alone, {reach} could be decided (in hindsight: the "
        f"threshold is chosen on the same {case}s). Area under the risk–coverage curve "
        f"{figures['area_under_risk_coverage']:.3f}."
    ]
    if figures["rank_correlation"] is not None:
        sentences.append(
            f"Two repeats order the {case}s with a rank correlation of "
            f"{figures['rank_correlation']:.2f}; {figures['share_flipped']:.0%} of the {case}s do "
            "not get the same class from all repeats."
        )
    sentences += doubt_sentence(metrics)
    if conformal := metrics["conformal"]:
        low, high = conformal["interval_95"]
        sentences.append(
            f"Conformal sets that promise the true class in {1 - conformal['error']:.0%} of new "
            f"patients held it in {conformal['coverage']:.0%} (95 % interval {low:.0%} to "
            f"{high:.0%}); {conformal['share_single']:.0%} of the sets name one class alone."
        )
        if conformal["mean_size"] == len(metrics["classes"]):
            sentences[-1] += (
                " There are too few patients for such a promise: every class is in every set."
            )
    if number := metrics["num_suspected_labels"]:
        sentences.append(
            f"Nearly every repeat contradicts the labels of {count(number, case)} with "
            "confidence: look at them in `suspected_labels.csv`."
        )
    return sentences


def doubt_sentence(metrics: dict[str, Any]) -> list[str]:
    """Say whether doubt finds the errors; nothing of runs that were made before it was measured."""
    if not (found := metrics["confidence"].get("errors_found")):
        return []
    entropy, mutual = found["entropy"], found["mutual_information"]
    errors = count(found["num_errors"], "error")
    if entropy["auroc"] is None:
        return [f"Whether doubt finds the errors cannot be told: {errors}."]
    low, _ = entropy["interval_95"]
    says = "finds" if low is not None and low > 0.5 else "does not clearly find"
    words = (
        f"Doubt {says} the {errors} of the mean over repeats: AUROC of its entropy, wrong "
        f"{metrics['case']}s against right ones, {_with_range(entropy)}"
    )
    more = f"; of the mutual information of the repeats {_with_range(mutual)}" if mutual else ""
    return [f"{words}{more}."]


def calibration_sentence(metrics: dict[str, Any]) -> str:
    """Say how far predictions can be believed, and whether calibration helps."""
    if is_number(metrics):
        return slope_sentence(metrics)
    before, after = (metrics["calibration"][k] for k in ("as_trained", "calibrated"))
    low, high = before["ece_if_perfect"]
    words = (
        f"Brier score {before['brier']:.3f}, expected calibration error {before['ece']:.3f}; "
        f"with as many {metrics['case']}s, probabilities that are exactly right would show "
        f"{low:.3f} to {high:.3f}."
    )
    if after is None:
        return words + " One fold alone has no patients to calibrate on."
    gains = [before[name] - after[name] for name in ("brier", "ece")]
    if min(gains) > 0:
        did = "improved both"
    elif max(gains) <= 0:
        did = "improved neither"
    else:
        did = f"improved the {'Brier score' if gains[0] > 0 else 'calibration error'} alone"
    on = metrics["calibration"].get("on", "validation")  # runs of before had no other way
    on = "validation patients" if on == "validation" else on
    return (
        f"{words} Slope and intercepts fitted on the {on} of each fold {did}: Brier "
        f"{after['brier']:.3f}, calibration error {after['ece']:.3f}; the pooled AUROC goes from "
        f"{_figure(before['auroc'])} to {_figure(after['auroc'])}."
    )


def start_sentence(run: dict[str, Any]) -> str:
    """Say what the model is, or where its weights began."""
    if run.get("method"):
        return str(run["method"])
    return f"Started from {run['init'] or 'random weights'}."


def who_is_predicted(metrics: dict[str, Any]) -> str:
    """Say that predictions are out-of-fold, and who has none."""
    never = metrics["num_untested_patients"]
    if not never:
        return "every scan is predicted by models that were not trained on its patient."
    return (
        "each of them is predicted by models that were not trained on its patient. "
        f"The splits put {count(never, 'other patient')} into no test part: for training and "
        "choosing the checkpoint alone, they have no prediction."
    )


def count(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _with_range(found: dict[str, Any]) -> str:
    low, high = map(_figure, found["interval_95"])
    return f"{_figure(found['auroc'])}, 95 % interval {low} to {high}"


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
