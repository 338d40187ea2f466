"""`sanity`: checks of what should not work, and of shortcuts.

Random labels must end at chance; the label should not follow from headers and brightness alone,
nor the site from the encoder's features. Each is asked on the folds of the run's first repeat.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli

from commands.bundles.ensemble import fold_model, open_ensemble, volume_batches
from commands.bundles.reference import read_facts
from commands.finetune import finetune
from commands.reporting.page import open_cohort, write_page
from commands.reporting.results import read_tables
from commands.runs.mask_features import has_masks, mask_features
from commands.runs.run_folder import (
    fold_folder,
    read_config,
    read_json,
    run_path,
    write_json,
    write_text,
)
from datamodules.cohort import Cohort
from datamodules.reading.cohort_table import read_other_columns
from datamodules.splits import fold_runs, patients_of
from evaluation.predictions import prediction_table, read_predictions, write_table
from evaluation.regression import regression_table
from evaluation.sanity import false_alarms, sanity_row, shuffled_labels
from evaluation.summary import RunTables
from files.yaml_text import dump_yaml
from lightning_modules.classical import METHODS, REGRESSION_METHODS, fit_method, predict_probs

MIN_PATIENTS = 5  # of a site


def sanity(args: list[str]) -> None:
    """Check the run that the command line names."""
    auto_cli(_sanity, args=args, prog="main.py sanity")


def _sanity(run: str = "", random_labels: bool = True, seed: int = 0) -> None:
    """Write sanity.json into a finished run, and its report again.

    Args:
        run: Name of the run, kept in runs/<name>, or a folder.
        random_labels: Train one repeat again on shuffled labels; takes as long as one repeat.
        seed: Seed of the shuffle.
    """
    if not run:
        raise ValueError("No run is given: set RUN=name.")
    folder = run_path(run)
    tables = read_tables(folder)
    config = read_config(folder)
    cohort = open_cohort(config)
    splits = tables.splits[tables.splits["repeat"] == tables.splits["repeat"].min()]
    facts = _facts(cohort)
    labels_per = config["data"]["init_args"].get("labels_per", "patient")

    def ask(features: pd.DataFrame) -> pd.DataFrame:
        if cohort.task == "regression":
            return _predict_numbers(features, cohort, splits, labels_per)
        return _predict(features, cohort, cohort.labels, splits, labels_per)

    rows = [
        sanity_row(
            "Is the label in headers, shapes and brightness?",
            ask(facts),
            "The label can be predicted from headers, shapes and brightness alone: the model may "
            "use a shortcut. Compare scanners and protocols of the classes.",
        )
    ]
    if has_masks(cohort):
        volume = mask_features(cohort)[["PhysicalSize"]]
        rows.append(
            sanity_row(
                "Is the label in the mask's volume?",
                ask(volume),
                "The label can be predicted from the volume of the mask alone: see that the model "
                "adds to it (`make classical` has a row `mask-features`).",
            )
        )
    trained = "model" in config and "method" not in config
    sites = _sites(tables, cohort)
    if trained and sites is not None and cohort.task == "classification":
        rows.append(
            sanity_row(
                "Is the site in the encoder's features?",
                _predict_site(folder, cohort, sites, splits),
                "The site can be predicted from the encoder's features: if the classes differ "
                "between sites, the model may use it. Look at the figures of each site.",
            )
        )
    if trained and random_labels:
        predictions = _train_on_shuffled_labels(folder, config, cohort, splits, seed)
        rows.append(
            sanity_row(
                "Does the pipeline learn random labels?",
                predictions,
                "Random labels are predicted better than chance. Either test patients leak into "
                "the training, or this is a false alarm. Shuffle again (ARGS=--seed=1): if it "
                "happens again, do not trust this run.",
            )
        )
    write_json({"checks": rows}, folder / "sanity.json")
    write_page(folder)
    is_number = cohort.task == "regression"
    print(false_alarms(len(rows), "0" if is_number else "0.5"))
    for row in rows:
        figure = f"r {row['r']}" if is_number else f"AUROC {row['auroc']}"
        print(f"{row['question']} {figure} ({row['interval']}). {row['verdict']}")


def _facts(cohort: Cohort) -> pd.DataFrame:
    """Header fields, shape and brightness of every scan, one row each; no voxel's place."""
    table = pd.DataFrame([vars(fact) for fact in read_facts(cohort.volumes)])
    spacing = np.array(table.pop("spacing_mm").tolist())
    for axis, name in enumerate("RAS"):
        table[f"spacing_{name}"] = spacing[:, axis]
    volumes = cohort.volumes
    return table.assign(
        lowest=np.nanmin(volumes.minima, axis=1), highest=np.nanmax(volumes.maxima, axis=1)
    )


def _sites(tables: RunTables, cohort: Cohort) -> list[str] | None:
    """Site of every scan, where at least two sites have enough patients."""
    patients = tables.cohort.groupby("site")["patient_id"].nunique()
    large = set(patients[patients >= MIN_PATIENTS].index) - {""}
    site = tables.cohort.set_index(["patient_id", "image"])["site"].to_dict()  # of the real scans
    sites = [site.get((scan.patient_id, scan.image), "") for scan in cohort.scans]
    return [name if name in large else "" for name in sites] if len(large) > 1 else None


def _predict(
    features: pd.DataFrame,
    cohort: Cohort,
    labels: list[str],
    splits: pd.DataFrame,
    labels_per: Literal["patient", "scan"] = "patient",
) -> pd.DataFrame:
    """Cross-validate logistic regression on the run's folds; scans without a label are left out."""
    names = sorted(set(labels) - {""})
    parts = []
    for repeat, fold in fold_runs(splits):
        who = patients_of(splits, repeat, fold)
        test = [row for row in cohort.rows_of(who["test"], synthetic=False) if labels[row]]
        train = [row for row in cohort.rows_of(who["train"] | who["val"]) if labels[row]]
        train = sorted(set(train) - set(test))  # protocol 'paper'
        index = np.array([names.index(label) for label in labels if label])
        place = np.cumsum([bool(label) for label in labels]) - 1
        fitted = fit_method(
            METHODS["covariates"],
            features.iloc[train],
            index[place[train]],
            [cohort.patients[row] for row in train],
            fold,
        )
        table = prediction_table(
            [cohort.scans[row] for row in test],
            predict_probs(fitted, features.iloc[test]).tolist(),
            names,
            repeat=repeat,
            fold=fold,
            labels_per=labels_per,
        )
        parts.append(table.assign(label=[labels[row] for row in test]))
    return pd.concat(parts, ignore_index=True)


def _predict_numbers(
    features: pd.DataFrame,
    cohort: Cohort,
    splits: pd.DataFrame,
    labels_per: Literal["patient", "scan"],
) -> pd.DataFrame:
    """Cross-validate ridge regression on the run's folds."""
    parts, targets = [], cohort.targets
    for repeat, fold in fold_runs(splits):
        who = patients_of(splits, repeat, fold)
        test = cohort.rows_of(who["test"], synthetic=False)
        train = sorted(set(cohort.rows_of(who["train"] | who["val"])) - set(test))
        patients = [cohort.patients[row] for row in train]
        method = REGRESSION_METHODS["covariates"]
        fitted = fit_method(method, features.iloc[train], targets[train], patients, fold)
        table = regression_table(
            [cohort.scans[row] for row in test],
            targets[test],
            fitted.predict(features.iloc[test]),
            repeat=repeat,
            fold=fold,
            labels_per=labels_per,
        )
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


@torch.no_grad()
def _predict_site(
    folder: Path, cohort: Cohort, sites: list[str], splits: pd.DataFrame
) -> pd.DataFrame:
    ensemble = open_ensemble(folder)
    members = {member.name: member for member in ensemble.members}
    everyone = np.arange(len(cohort.scans))
    parts = []
    for repeat, fold in fold_runs(splits):
        rows = splits[(splits["repeat"] == repeat) & (splits["fold"] == fold)]
        name = fold_folder(folder, repeat, fold).name
        model = fold_model(ensemble, members[name], folder)
        batches = volume_batches(cohort.volumes, everyone)
        features = torch.cat([model.features(batch) for batch in batches]).numpy()
        parts.append(_predict(pd.DataFrame(features).add_prefix("feature_"), cohort, sites, rows))
    return pd.concat(parts, ignore_index=True)


def _train_on_shuffled_labels(
    folder: Path, config: dict[str, Any], cohort: Cohort, splits: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Run the same pipeline on the first repeat's folds, the labels shuffled."""
    place, again = folder / "sanity", f"-{seed}" if seed else ""
    labels, name = place / f"random_labels{again}.csv", f"random-labels{again}"
    columns = cohort.columns
    paths = [[str(path or "") for path in scan.paths] for scan in cohort.scans]
    table = pd.DataFrame(paths, columns=columns.images(cohort.contrasts))
    table[columns.patient_id] = cohort.patients
    truth = columns.target if cohort.task == "regression" else columns.label
    table[truth] = shuffled_labels(cohort.patients, cohort.labels, seed)
    table[columns.synthetic] = ["yes" * scan.synthetic for scan in cohort.scans]
    table[columns.mask] = [str(scan.mask_path or "") for scan in cohort.scans]
    others = read_other_columns(cohort.table, columns, cohort.contrasts)
    for name in {name for name, _ in cohort.covariates.columns}:
        table[name] = others[name]
    place.mkdir(exist_ok=True)
    write_table(table.loc[:, (table != "").any()], labels)
    write_table(splits, place / "splits.csv")
    write_text(dump_yaml(config), place / "config.yaml")
    init = read_json(folder / "run.json")["init"]
    arguments = [
        f"-c{place / 'config.yaml'}",
        f"--run={place / name}",
        f"--data.init_args.table={labels}",
        f"--data.init_args.splits.path={place / 'splits.csv'}",
        "--wandb=disabled",
        *([f"--init={init}"] if init else []),
    ]
    finetune(arguments)
    return read_predictions(place / name / "predictions.csv")
