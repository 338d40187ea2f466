"""`features`: what the encoder of each fold sees in every scan, as a table for other programs."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli

from commands.bundles.ensemble import fold_model, input_batches, open_ensemble
from commands.reporting.page import open_cohort
from commands.runs.run_folder import read_config, run_path
from datamodules.splits import fold_runs, patients_of, read_splits
from evaluation.predictions import write_table

FEATURE = "feature_"


def features(args: list[str]) -> None:
    """Write the table that the command line asks for."""
    auto_cli(_features, args=args, prog="main.py features")


def _features(run: str = "", out: str | None = None) -> None:
    """Write the encoder's features of every scan, by the model of every fold.

    One row per scan and fold: patient_id, image, repeat, fold, part ('train', 'val' or 'test'),
    label (or target), feature_0, feature_1 and so on. In test rows the label is empty: a program
    that fits on all rows by mistake fails.

    Args:
        run: Name or folder of a finished run.
        out: The table (.csv); None is features.csv in the run's folder.
    """
    if not run:
        raise ValueError("No run is given: set RUN=name.")
    folder = run_path(run)
    path = folder / "features.csv" if out is None else Path(out).expanduser()
    ensemble = open_ensemble(folder)
    if not (folder / "splits.csv").is_file():
        raise ValueError(f"{folder} is a bundle and has no folds: give the run itself.")
    cohort, splits = open_cohort(read_config(folder)), read_splits(folder)
    truth = "target" if cohort.task == "regression" else "label"
    scans = pd.DataFrame(
        {"patient_id": cohort.patients, "image": [scan.image for scan in cohort.scans]}
    )
    known = pd.Series(cohort.labels, dtype=object)
    rows, tables = np.arange(len(scans)), []
    for member, (repeat, fold) in zip(ensemble.members, fold_runs(splits), strict=True):
        model = fold_model(ensemble, member, folder)
        seen = torch.cat([model.features(volume) for volume, _ in input_batches(cohort, rows)])
        if not seen.shape[1]:
            raise ValueError(f"The network of {folder} is no ScanClassifier: it has no features.")
        parts = patients_of(splits, repeat, fold)
        part_of = {patient: part for part, patients in parts.items() for patient in patients}
        part = scans["patient_id"].map(part_of)
        part = part.where(part.eq("train") | scans.index.isin(cohort.real))
        place = scans.assign(repeat=repeat, fold=fold, part=part)
        place[truth] = known.where(part != "test", "")
        columns = [f"{FEATURE}{column}" for column in range(seen.shape[1])]
        table = pd.concat([place, pd.DataFrame(seen.numpy(), columns=columns)], axis=1)
        tables.append(table[part.notna()])  # with train_fraction some patients are not used
    write_table(pd.concat(tables, ignore_index=True), path)
    print(f"{len(scans)} scans, {len(tables)} folds, {len(columns)} features: {path}")
