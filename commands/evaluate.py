"""`evaluate`: a finished run on labelled patients from elsewhere, against its own figures."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli

from commands.bundles.ensemble import Ensemble, fold_model, input_batches, open_ensemble
from commands.predict import predict_cohort
from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.advice import advice_for
from commands.runs.prepare import target_fact
from commands.runs.run_folder import (
    claim,
    keep_splits,
    read_config,
    read_json,
    run_path,
    write_json,
)
from datamodules.checks.cohort_problems import Expectations, count
from datamodules.cohort import Cohort
from datamodules.reading.cohort_table import Columns
from datamodules.splits import COLUMNS
from evaluation.external import drops, external_sentences, recalibration
from evaluation.predictions import PROB, prediction_table, read_predictions, write_table
from evaluation.regression import regression_table


def evaluate(args: list[str]) -> None:
    """Evaluate the run on the cohort that the command line names."""
    auto_cli(_evaluate, args=args, prog="main.py evaluate")


def _evaluate(run: str = "", data: str = "", out: str = "", cache_dir: str = "cache") -> None:
    """Write every figure of a run's models on other patients, whose labels are known.

    Args:
        run: Name or folder of a finished run.
        data: Cohort table of the other patients, with labels.
        out: Folder for the results, as a run has them.
        cache_dir: Folder for preprocessed volumes; may be deleted at any time.
    """
    if not run or not data or not out:
        raise ValueError("Give what is evaluated on whom, and where to: RUN= DATA= OUT=.")
    source, folder, started = run_path(run), Path(out).expanduser(), time.monotonic()
    if not (source / "predictions.csv").is_file():
        raise ValueError(
            f"{source} has no out-of-fold predictions to compare with. Set RUN= to a finished run "
            "of `make finetune`."
        )
    ensemble, config = open_ensemble(source), read_config(source)
    columns = Columns(**config["data"]["init_args"]["columns"])
    cohort = ensemble.cohort(data, cache_dir, columns)
    cohort.refuse_synthetic()
    classes = ensemble.classes or None
    check = cohort.check(Expectations(True, ensemble.labels_per, classes, task=ensemble.task))
    for remark in filter(None, [check.warnings_in_brief(), *cohort.covariates.remarks]):
        print(advice_for("evaluate", remark))
    if missing := sorted(set(ensemble.classes) - set(cohort.labels)):
        raise ValueError(
            f"{data} has no patient of the class {missing[0]!r}: figures need patients of all "
            "classes. Without labels use `make predict`."
        )
    _refuse_seen(ensemble, source, cohort)
    made_by = (
        f"Predicted by the models of the run {source.name}: {len(ensemble.members)} folds, "
        f"{'calibrated and ' * bool(ensemble.classes)}averaged."
    )
    config["data"]["init_args"]["table"] = str(Path(data).expanduser().resolve())
    facts = read_json(source / "run.json")
    claim(
        folder,
        config | {"method": f"the models of {source.name}", "features": "scans"},
        {
            "seed": facts["seed"],
            "init": None,
            "data_hash": cohort.content_hash(),
            "preprocessing": facts["preprocessing"],
            "method": made_by,
            **target_fact(cohort),
        },
    )
    tested = [(0, 0, patient, "test") for patient in dict.fromkeys(cohort.patients)]
    keep_splits(pd.DataFrame(tested, columns=COLUMNS), folder)
    new = predict_cohort(ensemble, source, cohort)
    found = new[[PROB + name for name in ensemble.classes] or ["predicted"]].to_numpy()
    predictions = _with_labels(found, ensemble, cohort)
    lost = drops(
        read_predictions(source / "predictions.csv"), _by_each_model(ensemble, source, cohort)
    )
    calibration = recalibration(predictions)
    sentences = external_sentences(source.name, lost, calibration)
    unlike = new[new["warnings"] != ""]
    sentences.append(
        f"{len(unlike)} of {len(new)} scans are unlike the training scans; why stands in "
        "`warnings.csv`."
    )
    write_table(unlike[["patient_id", "image", "warnings"]], folder / "warnings.csv")
    write_json({"drops": lost, "calibration": calibration}, folder / "external.json")
    made = {"wall_time_s": time.monotonic() - started, "external": sentences}
    write_results(folder, cohort, made, predictions)
    write_page(folder)
    print("\n".join(sentences))


def _with_labels(
    found: np.ndarray, ensemble: Ensemble, cohort: Cohort, repeat: int = 0
) -> pd.DataFrame:
    place: Any = {"repeat": repeat, "fold": 0, "labels_per": ensemble.labels_per}
    if ensemble.task == "regression":
        return regression_table(cohort.scans, cohort.targets, found[:, 0], **place)
    return prediction_table(cohort.scans, found.tolist(), ensemble.classes, **place)


def _by_each_model(ensemble: Ensemble, source: Path, cohort: Cohort) -> pd.DataFrame:
    """Predict everyone with each fold's model as trained, each a repeat of its own."""
    tables, rows = [], np.arange(len(cohort.scans))
    for number, member in enumerate(ensemble.members):
        fold = fold_model(ensemble, replace(member, calibration=None), source)
        probs = torch.cat([fold(*batch) for batch in input_batches(cohort, rows)])
        tables.append(_with_labels(probs.numpy(), ensemble, cohort, number))
    return pd.concat(tables, ignore_index=True)


def _refuse_seen(ensemble: Ensemble, source: Path, cohort: Cohort) -> None:
    """Raise if a model has met one of the patients, or one of the scans under another name."""
    known = {patient for member in ensemble.members for patient in member.seen.patients}
    if met := sorted(known & set(cohort.patients)):
        raise ValueError(
            f"{count(len(met), 'patient')} of {cohort.table} took part in the training of "
            f"{source}: {', '.join(met[:5])}{', …' * (len(met) > 5)}. Their out-of-fold "
            "predictions are in the run; leave them out here, or rename them if they are other "
            "people."
        )
    for member in ensemble.members:
        if met := cohort.patients_seen_in(member.seen.scans, set(cohort.patients)):
            raise ValueError(
                f"The models of {source} have seen the very scans of "
                f"{count(len(met), 'patient')} of {cohort.table}, or altered copies, under other "
                f"names: {', '.join(met[:5])}{', …' * (len(met) > 5)}. Leave them out."
            )
