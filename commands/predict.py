"""`predict`: new scans through a run's preprocessing and all its folds, doubtful ones first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli

from commands.bundles.ensemble import Ensemble, Member, fold_model, input_batches, open_ensemble
from commands.bundles.maps import write_maps
from commands.bundles.model_card import calibration_words
from commands.bundles.reference import differences, distances, read_facts
from commands.bundles.samples import Samples
from commands.runs.run_folder import run_path, write_text
from datamodules.cohort import Cohort
from evaluation.doubt import doubt_of, doubt_of_means
from evaluation.predictions import PROB, probs_of, with_decision, write_table
from evaluation.report.markdown import markdown_table
from lightning_modules.saliency import MapKind

SHOWN_ROWS = 10
WARNING_COLUMNS = ["rank", "patient_id", "image", "warnings"]


def predict(args: list[str]) -> None:
    """Predict the scans that the command line names."""
    auto_cli(_predict, args=args, prog="main.py predict")


def _predict(
    run: str = "",
    data: str = "",
    out: str = "",
    cache_dir: str = "cache",
    mc_dropout: int = 0,
    tta: int = 0,
    maps: Literal["none", MapKind] = "none",
) -> None:
    """Write predictions.csv, ranking.csv, report.md and perhaps patients.csv of new scans.

    Args:
        run: Name or folder of a finished run, or folder of an exported bundle.
        data: Cohort table of the new scans; needs no labels.
        out: Folder for the results.
        cache_dir: Folder for preprocessed volumes; may be deleted at any time.
        mc_dropout: Predictions of each scan and model with dropout on, such as 20, averaged.
        tta: Copies of each scan, augmented as in training, such as 8, averaged; the first is the
            scan as it is. With either, predictions.csv has the columns entropy and
            mutual_information; tta=1 gives those of the models alone.
        maps: What speaks for the predicted class, as NIfTI on each scan's own voxels: 'gradcam',
            'gradcam++', 'integrated_gradients', 'shap', 'lime' or 'occlusion', the last three slow.
    """
    if not run or not data or not out:
        raise ValueError("Give what predicts which scans, and where to: RUN= DATA= OUT=.")
    source, folder = run_path(run), Path(out).expanduser()
    ensemble = open_ensemble(source)
    cohort = ensemble.cohort(data, cache_dir)
    cohort.refuse_synthetic()
    for remark in cohort.covariates.remarks:
        print(remark)
    samples = Samples(mc_dropout, tta or 1) if mc_dropout or tta else None
    predictions = predict_cohort(ensemble, source, cohort, samples)
    ranking = _ranked(predictions, "image")
    ranking.insert(0, "rank", range(1, len(ranking) + 1))
    folder.mkdir(parents=True, exist_ok=True)
    write_table(predictions, folder / "predictions.csv")
    write_table(ranking, folder / "ranking.csv")
    if ensemble.labels_per == "patient" and predictions["patient_id"].duplicated().any():
        write_table(patient_table(predictions), folder / "patients.csv")
    where = ""
    if maps != "none":
        predicted = predictions["predicted"].tolist()
        where = write_maps(ensemble, source, cohort, predicted, maps, folder / "maps")
    report = _report(source, ensemble, cohort, ranking, samples, where)
    write_text(report, folder / "report.md")
    num_warned = int(predictions["warnings"].ne("").sum())
    print(
        f"{len(predictions)} scans predicted by {len(ensemble.members)} models; {num_warned} with "
        f"warnings. Report: {folder / 'report.md'}"
    )


def _ranked(table: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Put the doubtful first: the least confident, or the largest spread where numbers are."""
    first, ascending = ("confidence", True) if "confidence" in table else ("spread", False)
    keys = [first, "patient_id", *more]
    order = [ascending, *[True] * (len(keys) - 1)]
    return table.sort_values(keys, ascending=order, ignore_index=True)


def patient_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the predictions of each patient's scans, the most doubtful patient first.

    Args:
        predictions: One row per scan, from `predict_cohort`.

    Returns:
        One row per patient: patient_id, num_scans, prob_<class>, predicted, confidence, and with
        samples entropy and mutual_information over scans and samples; of numbers predicted and
        spread, that of the patient's most doubtful scan.
    """
    patients = predictions.groupby("patient_id")
    if probs := [name for name in predictions.columns if name.startswith(PROB)]:
        table = with_decision(patients[probs].mean().reset_index())
        if "entropy" in predictions:  # samples: each scan's, and the scans, are the patient's
            of_samples = predictions["entropy"] - predictions["mutual_information"]
            each = of_samples.groupby(predictions["patient_id"]).mean().to_numpy()
            table = table.assign(**doubt_of_means(probs_of(table), each))
    else:
        table = patients.agg({"predicted": "mean", "spread": "max"}).reset_index()
    table.insert(1, "num_scans", patients.size().to_numpy())
    return _ranked(table)


def predict_cohort(
    ensemble: Ensemble, folder: Path, cohort: Cohort, samples: Samples | None = None
) -> pd.DataFrame:
    """Predict every scan with every fold and average.

    Args:
        ensemble: What predicts.
        folder: Where its weights are.
        cohort: The scans, with the ensemble's preprocessing.
        samples: How often each model predicts a scan; None is once.

    Returns:
        One row per scan: patient_id, image, prob_<class>, predicted, confidence, spread (the
        standard deviation over the models of the predicted class's probability), with samples
        entropy and mutual_information (evaluation/doubt.py), warnings; of numbers patient_id,
        image, predicted, spread, warnings.
    """
    if samples is not None and not ensemble.classes:
        raise ValueError("--mc_dropout and --tta are for classes: this run predicts a number.")
    volumes, scans = cohort.volumes, cohort.scans
    rows = np.arange(len(scans))
    found = np.empty((len(ensemble.members), len(scans), len(ensemble.classes) or 1))
    num_far, drawn = np.zeros(len(scans), dtype=int), []
    copies = samples.copies(ensemble, cohort) if samples else None
    for position, member in enumerate(ensemble.members):
        fold = fold_model(ensemble, member, folder)
        outputs = [(fold(*each), fold.features(each[0])) for each in input_batches(cohort, rows)]
        found[position], features = (torch.cat(each).numpy() for each in zip(*outputs, strict=True))
        if member.reference is not None:
            far = distances(member.reference, features) > member.reference.largest_distance
            num_far += far
        if samples is not None and copies is not None:
            drawn.append(samples.predict(fold, cohort, copies, position))
            found[position] = drawn[-1].mean(0)
    scan_names = {"patient_id": cohort.patients, "image": [scan.image for scan in scans]}
    means = {PROB + name: found[..., k].mean(0) for k, name in enumerate(ensemble.classes)}
    table = pd.DataFrame(scan_names | (means or {"predicted": found[..., 0].mean(0)}))
    chosen = [0] * len(scans)
    if ensemble.classes:
        table = with_decision(table)
        chosen = [ensemble.classes.index(name) for name in table["predicted"]]
    facts = read_facts(volumes) if ensemble.references else []
    respelt = [_seen_by_another_id(member, cohort) for member in ensemble.members]
    warnings = [
        [
            *_seen_warning(ensemble, scan.patient_id, respelt),
            *(differences(facts[row], ensemble.references) if facts else []),
            *_distance_warning(int(num_far[row]), len(ensemble.references)),
        ]
        for row, scan in enumerate(scans)
    ]
    doubt = doubt_of(np.concatenate(drawn).astype(float)) if drawn else {}
    return table.assign(
        spread=found.std(0)[rows, chosen],
        **doubt,
        warnings=["; ".join(words) for words in warnings],
    )


def _seen_by_another_id(member: Member, cohort: Cohort) -> set[str]:
    """Patients with a scan, perhaps altered, that a model has seen under another patient_id."""
    unknown = set(cohort.patients) - member.seen.patients
    return set(cohort.patients_seen_in(member.seen.scans, unknown))


def _seen_warning(
    ensemble: Ensemble, patient_id: str, by_another_id: Sequence[set[str]]
) -> list[str]:
    total = len(ensemble.members)
    num_met = sum(patient_id in member.seen.patients for member in ensemble.members)
    num_others = sum(patient_id in patients for patients in by_another_id)
    words = []
    if num_met:
        words.append(f"patient known to {num_met} of {total} models: not out-of-fold")
    if num_others:
        which = f"a scan of the patient known to {num_others} of {total} models"
        words.append(f"{which} by another patient_id: not out-of-fold")
    return words


def _distance_warning(num_far: int, num_models: int) -> list[str]:
    if num_far <= num_models / 2:
        return []
    return [
        f"for {num_far} of {num_models} models farther from the training scans in feature space "
        "than any scan that was held out"
    ]


def _report(
    source: Path,
    ensemble: Ensemble,
    cohort: Cohort,
    ranking: pd.DataFrame,
    samples: Samples | None,
    maps: str,
) -> str:
    what = "probabilities" if ensemble.classes else "numbers"
    calibration = (
        f"calibrated with {words}, each fitted on patients whom the model has not trained on."
        if (words := calibration_words(ensemble))
        else "not calibrated: the run has no other fold to calibrate on."
        if ensemble.classes
        else "as trained."
    )
    order = (
        "Confidence is the highest output minus the second, spread the standard deviation over the "
        "models."
        if ensemble.classes
        else "The spread is the standard deviation over the models; where they disagree, the "
        "prediction is doubtful."
    )
    if samples is not None:
        order += (
            f" Copies of each scan: {samples.tta}; predictions of each copy and model with dropout "
            f"on: {samples.mc_dropout}. The entropy of the mean, in nats, is all doubt; the mutual "
            "information is how far the predictions contradict each other."
        )
    warned = ranking[ranking["warnings"] != ""]
    compared = (
        f"{len(warned)} of {len(ranking)} scans have warnings, all of them in `ranking.csv`. The "
        "run's figures do not hold for such scans."
        if ensemble.references
        else "**The run does not tell what its training scans were like: whether these are like "
        "them cannot be told.**"
    )
    sections = [
        f"# Predictions of {source.name}",
        f"{len(ranking)} scans of {ranking['patient_id'].nunique()} patients, each predicted by "
        f"all {len(ensemble.members)} models of `{source}`, their {what} averaged; "
        f"{calibration} {cohort.preprocessing.describe()}",
        "## Which cases to read first",
        f"The {min(SHOWN_ROWS, len(ranking))} most doubtful; all are in `ranking.csv`. {order}",
        markdown_table(ranking.drop(columns="warnings").head(SHOWN_ROWS)),
        *(["## Maps", maps] if maps else []),
        "## Scans to distrust",
        compared,
        *([markdown_table(warned.head(SHOWN_ROWS)[WARNING_COLUMNS])] if len(warned) else []),
        *(
            []
            if any(member.seen.patients for member in ensemble.members)
            else ["Whether a patient was in the training cohort is not known."]
        ),
        "Research software, not a medical device.",
    ]
    return "\n\n".join(sections) + "\n"
