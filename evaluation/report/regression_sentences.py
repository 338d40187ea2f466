"""What the figures of a regression mean, in words; every report says the same."""

from collections.abc import Sequence
from typing import Any

TRAINED = "the training patients"
UNIT_MEASURES = ("mae", "rmse", "bias")  # in the unit of the target
NUMBER_LABELS = {
    "mae": "Mean absolute error (MAE)",
    "rmse": "Root mean squared error (RMSE)",
    "r2": "R²",
    "r": "r (Pearson)",
    "slope": "Calibration slope (target on prediction)",
    "bias": "Mean error (prediction less target)",
    "bias_slope": "Slope of the error on the target",
}
NUMBER_INTERVALS = (
    "Intervals: 95 %, by leaving out one patient after the other (jackknife) with Student's t, the "
    "trained models as they are. MAE, RMSE and mean error are in the unit of the target; R² is "
    "about the mean of the predicted cases, all folds of a repeat together."
)


def unit_number(value: float | None) -> str:
    """Write a number in the unit of the target."""
    if value is None or value != value:
        return "–"
    words = f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return words.replace("-", "−")


def figure(name: str, value: float | None) -> str:
    """Write a measure."""
    if value is None or value != value:
        return "–"
    if name in UNIT_MEASURES:
        return unit_number(value)
    return f"{value:.3f}".replace("-", "−")


def interval_words(name: str, interval: Sequence[float | None] | None) -> str:
    """Write the interval of a measure."""
    if interval is None or None in interval or interval[0] != interval[0]:
        return "–"
    return " to ".join(figure(name, end) for end in interval)


def number_verdict(metrics: dict[str, Any]) -> str:
    """Say whether the model predicts better than a mean that knows nothing of the scans."""
    constant, mean = metrics["mean_predictor"], metrics["mean"]
    low, high = constant["mae_difference_95"]
    whose = f"the mean of {constant['of']}"
    if None in (low, high) or low != low:
        words = f"Too few patients to tell the model from {whose}"
    elif high < 0:
        words = f"The model predicts better than {whose}"
    elif low > 0:
        words = f"The model predicts worse than {whose}"
    else:
        words = f"This run cannot tell the model from {whose}"
    return (
        f"{words}: mean absolute error {unit_number(mean['mae'])} (95 % interval "
        f"{interval_words('mae', metrics['interval_95']['mae'])}), that of the mean "
        f"{unit_number(constant['mae'])}, difference "
        f"{unit_number(mean['mae'] - constant['mae'])} "
        f"({interval_words('mae', (low, high))}); R² {figure('r2', mean['r2'])}."
    )


def number_headline(metrics: dict[str, Any]) -> str:
    """Give the main figures in one line, for the terminal."""
    mean, intervals = metrics["mean"], metrics["interval_95"]
    constant = metrics["mean_predictor"]
    return (
        f"Mean absolute error {unit_number(mean['mae'])} (95 % interval "
        f"{interval_words('mae', intervals['mae'])}; the mean of "
        f"{constant['of']} {unit_number(constant['mae'])}), R² {figure('r2', mean['r2'])}, r "
        f"{figure('r', mean['r'])}"
    )


def slope_sentence(metrics: dict[str, Any]) -> str:
    """Say how far differences between predictions can be believed."""
    slope = metrics["mean"]["slope"]
    low, high = metrics["interval_95"]["slope"]
    if slope is None or low is None or slope != slope:
        return "All predictions are the same: there is no calibration slope."
    if low > 1:
        words = "predictions differ less than the targets that belong to them"
    elif high < 1:
        words = "predictions differ more than the targets that belong to them"
    else:
        words = "that predictions differ too much or too little is not shown"
    return (
        f"Calibration slope {figure('slope', slope)} (95 % interval "
        f"{interval_words('slope', (low, high))}), 1 if differences "
        f"between predictions can be taken as they are: {words}. Predictions are as trained, "
        "nothing is recalibrated."
    )


def bias_sentence(metrics: dict[str, Any]) -> str:
    """Say how the error depends on the target."""
    line, slope = metrics["bias_line"], metrics["mean"]["bias_slope"]
    low, high = metrics["interval_95"]["bias_slope"]
    if low is None or low != low or low <= 0 <= high:
        shown = "that the error depends on the target is not shown"
    else:
        shown = "the error depends on the target"
    (at_low, error_low), (at_high, error_high) = line["low"], line["high"]
    return (
        f"Slope of the error on the target {figure('bias_slope', slope)} (95 % interval "
        f"{interval_words('bias_slope', (low, high))}): {shown}. By the line, targets of "
        f"{unit_number(at_low)} are predicted {_too(error_low)}, those of "
        f"{unit_number(at_high)} {_too(error_high)}. Every regression leans to the mean "
        "like that, of age it is the age bias; it is not corrected. Compare the error of groups (a "
        "brain age gap) at equal targets alone, or with the target as covariate."
    )


def spread_sentences(metrics: dict[str, Any]) -> list[str]:
    """Say what the spread over repeats is worth, and how rounded grades do."""
    spread, case = metrics["spread"], metrics["case"]
    if spread is None:
        sentences = [
            "With one repeat there is no spread by which to rank: set --data.splits.num_repeats."
        ]
    else:
        sentences = [
            f"The {case}s are ranked by the spread (standard deviation) of their predictions over "
            f"the repeats, the largest first; its median is {unit_number(spread['median'])}. Its "
            "rank correlation with the absolute error is "
            f"{figure('r', spread['rank_correlation'])}: MAE "
            f"{unit_number(spread['mae_agreeing'])} in the half with small spread, "
            f"{unit_number(spread['mae_disagreeing'])} in the other."
        ]
    if rounded := metrics["rounded"]:
        sentences.append(
            f"Rounded to the nearest grade, {rounded['accuracy']:.0%} of the predictions are right "
            f"and {rounded['within_one']:.0%} at most one grade off; quadratically weighted kappa "
            f"{rounded['kappa']:.3f}."
        )
    return sentences


def mean_predictor_sentence(metrics: dict[str, Any]) -> str:
    """Say where knowing nothing lies on these folds."""
    constant = metrics["mean_predictor"]
    if constant["of"] != TRAINED:
        return (
            f"The mean target of {constant['of']}, which no model knew, has a mean absolute error "
            f"of {unit_number(constant['mae'])}."
        )
    return (
        "A model that only knows the mean target of its training part would reach a mean absolute "
        f"error of {unit_number(constant['mae'])} (95 % interval "
        f"{interval_words('mae', constant['mae_interval_95'])}) and R² "
        f"{figure('r2', constant['r2'])} on these folds: leaving a case out moves the mean away "
        "from it, so that R² is below 0."
    )


def number_case_sentence(metrics: dict[str, Any]) -> str:
    """Say what a case is, and how the figures read scan by scan."""
    if metrics["case"] == "scan":
        return "Each scan is a case, since a patient's scans may have different targets."
    if metrics["per_scan"] is None:
        return "Each patient is a case, with one scan."
    mean = metrics["per_scan"]["mean"]
    return (
        f"Each patient is a case: the predictions of its scans are averaged. Scan by scan "
        f"({metrics['num_scans']} scans): MAE {unit_number(mean['mae'])}, R² "
        f"{figure('r2', mean['r2'])}."
    )


def _too(error: float) -> str:
    if abs(error) < 1e-12:
        return "right on average"
    return f"too {'large' if error > 0 else 'small'} by {unit_number(abs(error))}"
