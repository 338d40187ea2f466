"""Items of TRIPOD+AI (2024) and CLAIM (2024) that a run can fill in."""

from typing import Any

from evaluation.report.model_card import Items, model_name
from evaluation.report.sentences import (
    calibration_sentence,
    is_number,
    outcome_sentence,
    start_sentence,
    verdict,
)
from evaluation.summary import RunTables


def checklist(
    tables: RunTables, metrics: dict[str, Any], run: dict[str, Any], config: dict[str, Any]
) -> Items:
    """Fill in the items that the run knows; '' is left to the authors.

    Args:
        tables: The run's tables.
        metrics: The content of metrics.json.
        run: The content of run.json.
        config: The content of config.yaml.
    """
    settings = config["data"]["init_args"]
    sites = sorted(set(tables.cohort["site"]) - {""})
    missing = [
        f"{name}: {number} of {len(tables.cohort)}"
        for name in tables.cohort.columns
        if 0 < (number := int((tables.cohort[name] == "").sum())) < len(tables.cohort)
    ]
    divided = (
        f"{run['num_fold_runs'] // metrics['num_repeats']} folds, {metrics['num_repeats']} "
        "repeats, divided by patient (splits.csv)"
    )
    return [
        ("Title: development of a prediction model", ""),
        ("Background, rationale, healthcare context", ""),
        (
            "Source of data",
            f"{len(tables.cohort)} scans of {tables.cohort['patient_id'].nunique()} patients"
            + (f" from the sites {', '.join(sites)}" if sites else "")
            + f"; hash {run['data_hash']}. Where, when and how they were collected: authors.",
        ),
        ("Eligibility, recruitment, dates", ""),
        ("Reference standard and who assessed it", ""),
        ("Outcome", outcome_sentence(metrics)),
        ("Data preparation", run["preprocessing"]),
        (
            "Intensity scale",
            f"Window percentiles {settings['preprocessing']['window_percentiles']} per scan, the "
            f"upper of the {settings['preprocessing']['window_over']}; mean and "
            f"{settings['preprocessing']['divide_by']} of the training patients of each fold.",
        ),
        ("Sample size", metrics["sample"]["sentence"]),
        (
            "Missing data",
            "Empty cells: " + "; ".join(missing) + "." if missing else "No empty cells.",
        ),
        ("Model", f"{model_name(config)}. {start_sentence(run)}"),
        ("Partition of the data", divided + f"; protocol {metrics['protocol']}."),
        ("Hyperparameters and their choice", "All in config.yaml; how they were chosen: authors."),
        (
            "Class imbalance",
            "A number is predicted; folds are even in its quantiles."
            if is_number(metrics)
            else "Scans of the classes: "
            + ", ".join(
                f"{name} {number}"
                for name, number in tables.cohort["label"].value_counts().sort_index().items()
            )
            + f"; sampling {settings.get('sampling', 'natural')}, class weights "
            f"{config.get('model', {}).get('init_args', {}).get('class_weights', 'none')}.",
        ),
        ("Performance measures and uncertainty", verdict(metrics)),
        ("Calibration", calibration_sentence(metrics)),
        (
            "Fairness: performance in subgroups",
            f"{len(metrics['subgroups'])} groups, see Performance."
            if metrics["subgroups"]
            else "The table has no site, sex or age.",
        ),
        ("External validation", "None in this run: patients of the same table alone."),
        ("Explanation of predictions", "Class activation maps where the ranking shows scans."),
        ("Failure analysis", "Ranking and labels to look at again; interpretation: authors."),
        ("Limitations, usability, ethics, registration, protocol", ""),
        ("Funding, conflicts of interest, data sharing", ""),
        (
            "Code and reproducibility",
            f"Commit {run['commit'] or 'unknown'}, seed {run['seed']}, versions below; "
            "checkpoints, folds and predictions are in the run's folder.",
        ),
    ]
