"""The model card of a run: what the model is, for whom, how good, and where it ends."""

from typing import Any

from evaluation.report.sentences import (
    calibration_sentence,
    is_number,
    optimism_sentence,
    outcome_sentence,
    start_sentence,
    verdict,
)

INTENDED_USE = (
    "Research: to rank scans for reading and to study how well the classes can be told apart in "
    "scans like these. Not a medical device; not for diagnosis, nor for deciding about a patient."
)
NUMBER_USE = INTENDED_USE.replace("the classes can be told apart", "a number can be predicted")
Items = list[tuple[str, str]]


def model_card(metrics: dict[str, Any], run: dict[str, Any], config: dict[str, Any]) -> Items:
    """Compose the card, a heading and words for each item; a report and a bundle show the same.

    Args:
        metrics: The content of metrics.json.
        run: The content of run.json.
        config: The content of config.yaml.
    """
    positive = metrics.get("positive_class")
    predicted = "Number" if is_number(metrics) else "Classes"
    outcome = outcome_sentence(metrics).removeprefix("Classes ").removeprefix("A number: ")
    if "target" in run:
        outcome = f"column `{run['target']}`; {outcome}"
    optimism = f" Optimistic: {optimism_sentence(metrics)}" * (metrics["protocol"] == "paper")
    return [
        ("Model", f"{model_name(config)}; one per fold. {start_sentence(run)}"),
        ("Intended use", NUMBER_USE if is_number(metrics) else INTENDED_USE),
        (predicted, outcome[:-1] + (f"; {positive} is positive." if positive else ".")),
        ("Input", run["preprocessing"]),
        ("Data", f"{metrics['num_scans']} scans of {metrics['num_patients']} patients."),
        (
            "Training",
            f"Patient-level cross-validation, repeats: {metrics['num_repeats']}, folds in all: "
            f"{run['num_fold_runs']}, protocol: {metrics['protocol']}. Commit "
            f"{run['commit'] or 'unknown'}, seed {run['seed']}.",
        ),
        ("Performance", verdict(metrics) + optimism),
        ("Calibration", calibration_sentence(metrics)),
        (
            "Limits",
            "Scans of other scanners, sequences, populations or orientations were not tested. "
            + metrics["sample"]["sentence"],
        ),
    ]


def model_name(config: dict[str, Any]) -> str:
    """Name a model and its size."""
    if "method" in config:
        return f"{config['method']} on {config['features']}"
    name = config["model"]["class_path"].rpartition(".")[2]
    settings = config["model"]["init_args"]
    if settings.get("backbone", "mctl") != "mctl":
        return f"{name} with backbone {settings['backbone']}"
    return (
        f"{name}: {settings.get('depth')} convolutions of {settings.get('filters')} filters, "
        f"{settings.get('nodes')} nodes"
    )
