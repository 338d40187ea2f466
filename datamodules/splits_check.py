"""What a division of patients lacks: patients, classes in a part, scans to train on."""

import numpy as np
import pandas as pd

from datamodules.splits import PARTS, Names, Splits, fold_runs, read_splits

WORDS = {"train": "training", "val": "validation", "test": "test"}


def given_splits(splits: Splits, patients: Names, table: str) -> pd.DataFrame:
    """Read the division that `splits.path` names, which must be one of these patients.

    Args:
        splits: How patients are divided.
        patients: Patient of each scan.
        table: Path of the cohort table, for messages.

    Raises:
        ValueError: If it is of other patients, or `train_fraction` wants another one.
    """
    assert splits.path is not None
    if splits.train_fraction < 1:
        raise ValueError(
            f"train_fraction is {splits.train_fraction}, but the splits {splits.path} tell who "
            "trains. Give one of the two; equal seeds draw equal test parts."
        )
    found = read_splits(splits.path)
    drawn, present = set(found["patient_id"]), set(patients)
    for missing, where in (
        (present - drawn, f"not in the splits {splits.path}"),
        (drawn - present, f"not in the cohort table {table}"),
    ):
        if missing:
            raise ValueError(
                f"{len(missing)} patients are {where} (first: {min(missing)!r}). "
                "Use splits that were made for this table."
            )
    return found


def split_warnings(table: pd.DataFrame, patients: Names, labels: Names) -> list[str]:
    """List in which parts of which folds a class is missing, and where training has few scans.

    Args:
        table: The splits table, of these patients.
        patients: Patient of each scan, (N,).
        labels: Class of each scan, (N,).

    Returns:
        One line for each class and part, and one for trainings on few scans.
    """
    scans = pd.crosstab(np.asarray(patients, dtype=str), np.asarray(labels, dtype=str))
    fold = table.groupby(["repeat", "fold"]).ngroup().to_numpy()  # in the order of cells
    part = table["part"].map({name: place for place, name in enumerate(PARTS)}).to_numpy()
    totals = np.zeros((len(PARTS), fold.max() + 1, 1 + scans.shape[1]))  # patients, then scans
    counts = np.column_stack([np.ones(len(table)), scans.loc[table["patient_id"]]])
    np.add.at(totals, (part, fold), counts)
    places = fold_runs(table)
    lines = []
    for name, of_part in zip(PARTS, totals, strict=True):
        needed = 2 if name == "test" else 1  # a fold of one patient cannot have all classes
        for label, in_folds in zip(scans.columns, of_part[:, 1:].T, strict=True):
            if (missing := (of_part[:, 0] >= needed) & (in_folds == 0)).any():
                lines.append(
                    f"Class {str(label)!r} is missing in the {WORDS[name]} part of "
                    f"{_folds(missing, places)}. Add patients or merge classes."
                )
    patient_share = totals[0, :, 0] / totals[..., 0].sum(0)
    scan_share = totals[0, :, 1:].sum(1) / totals[..., 1:].sum((0, 2))
    if (few := scan_share < patient_share / 2).any():
        lines.append(
            f"The training part of {_folds(few, places)} has at worst {scan_share.min():.0%} of "
            f"the scans, but {patient_share[scan_share.argmin()]:.0%} of the patients: a few "
            "patients have most scans. Use fewer scans of these."
        )
    return lines


def _folds(chosen: np.ndarray, places: list[tuple[int, int]]) -> str:
    repeat, fold = places[chosen.argmax()]
    return f"{chosen.sum()} of {len(places)} folds (first: repeat {repeat}, fold {fold})"
