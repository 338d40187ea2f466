"""Divide patients into training, validation and test, and keep the division as a table.

The table has the columns repeat, fold, patient_id, part; part is 'train', 'val' or 'test'. Where
a fold has no 'val' rows, its test patients choose the checkpoint (protocol 'paper').
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

Names = Sequence[str] | np.ndarray
COLUMNS = ["repeat", "fold", "patient_id", "part"]


@dataclass(frozen=True)
class Splits:
    """How patients are divided; all of a patient's scans stay together.

    Args:
        scheme: 'k-fold' is stratified and grouped by patient; 'leave-one-patient-out' has as many
            folds as patients.
        num_folds: Folds of 'k-fold'.
        num_repeats: Divisions, each with a seed of its own.
        val_fraction: Share of the training patients that chooses the checkpoint.
        protocol: 'nested' takes the validation patients from the training part; 'paper' lets the
            test patients choose the checkpoint as MCTL §4.2 does, which is optimistic.
        seed: Seed of all divisions.
        path: A splits.csv, or a run that has one, to use instead of all of the above.
    """

    scheme: Literal["k-fold", "leave-one-patient-out"] = "k-fold"
    num_folds: int = 5
    num_repeats: int = 3
    val_fraction: float = 0.2
    protocol: Literal["nested", "paper"] = "nested"
    seed: int = 0
    path: str | None = None


def make_splits(patients: Names, labels: Names, splits: Splits) -> pd.DataFrame:
    """Draw all folds of all repeats.

    Args:
        patients: Patient of each scan, (N,).
        labels: Class of each scan, (N,).
        splits: How to divide.

    Returns:
        The splits table.

    Raises:
        ValueError: If a class has fewer patients than folds, or a setting is out of range.
    """
    if not 0 < splits.val_fraction < 1:
        raise ValueError(f"val_fraction is {splits.val_fraction}; it must lie between 0 and 1.")
    if splits.num_folds < 2 or splits.num_repeats < 1:
        raise ValueError(
            f"num_folds is {splits.num_folds} and num_repeats {splits.num_repeats}; "
            "they must be at least 2 and 1."
        )
    groups, classes = np.asarray(patients, dtype=object), np.asarray(labels, dtype=object)
    _refuse_small_classes(groups, classes, splits)
    tables = []
    for repeat in range(splits.num_repeats):
        seed = int(np.random.SeedSequence((splits.seed, repeat)).generate_state(1)[0])
        for fold, (rest, test) in enumerate(_folds(groups, classes, splits, seed)):
            if splits.protocol == "paper":
                parts = {"train": rest, "test": test}
            else:
                val = _validation_rows(rest, groups, classes, splits, seed + fold)
                parts = {"train": np.setdiff1d(rest, val), "val": val, "test": test}
            tables += [
                pd.DataFrame(
                    {"patient_id": np.unique(groups[rows].astype(str)), "part": part}
                ).assign(repeat=repeat, fold=fold)
                for part, rows in parts.items()
            ]
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def read_splits(path: str | Path) -> pd.DataFrame:
    """Read a splits table from a file or from the folder of a run.

    Raises:
        ValueError: If it is missing, has other columns, or puts a patient into two parts.
    """
    file = Path(path) / "splits.csv" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"Splits {str(path)!r}: no such file. Give a splits.csv or a run.")
    table = pd.read_csv(file, dtype={"patient_id": str}, keep_default_na=False)
    if list(table.columns) != COLUMNS:
        raise ValueError(f"Splits {file} has the columns {list(table.columns)}, not {COLUMNS}.")
    if unknown := sorted(set(table["part"]) - {"train", "val", "test"}):
        raise ValueError(f"Splits {file} has a part {unknown[0]!r}: use train, val or test.")
    repeated = table[table.duplicated(["repeat", "fold", "patient_id"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise ValueError(
            f"Splits {file} lists patient {row.patient_id!r} twice in repeat "
            f"{row['repeat']}, fold {row['fold']}. A patient belongs to one part."
        )
    return table


def cells(table: pd.DataFrame) -> list[tuple[int, int]]:
    """List every (repeat, fold) of a splits table in order."""
    pairs = table[["repeat", "fold"]].drop_duplicates().sort_values(["repeat", "fold"])
    return [(int(repeat), int(fold)) for repeat, fold in pairs.to_numpy()]


def protocol_of(table: pd.DataFrame) -> Literal["nested", "paper"]:
    """Say what a splits table amounts to: 'paper' if a fold has no validation patients."""
    has_val = table["part"].eq("val").groupby([table["repeat"], table["fold"]]).any()
    return "nested" if has_val.all() else "paper"


def patients_of(table: pd.DataFrame, repeat: int, fold: int) -> dict[str, set[str]]:
    """Map each part of one fold to its patients.

    Raises:
        ValueError: If the table has no such fold.
    """
    rows = table[(table["repeat"] == repeat) & (table["fold"] == fold)]
    if rows.empty:
        raise ValueError(
            f"There is no repeat {repeat}, fold {fold}: repeats are 0 to {table['repeat'].max()}, "
            f"folds 0 to {table['fold'].max()}."
        )
    return {
        part: set(rows.loc[rows["part"] == part, "patient_id"]) for part in ("train", "val", "test")
    }


def hold_out(patients: Names, labels: Names, fraction: float, seed: int) -> np.ndarray:
    """Choose about `fraction` of the patients, stratified where that is possible.

    Args:
        patients: Patient of each scan, (N,).
        labels: Class of each scan, (N,).
        fraction: Share of the patients to hold out.
        seed: Seed of the choice.

    Returns:
        Positions of the chosen patients' scans, at least one patient's and never all.
    """
    groups, classes = np.asarray(patients, dtype=object), np.asarray(labels, dtype=object)
    largest_class = max(len(set(groups[classes == name])) for name in set(classes))
    num_parts = min(max(round(1 / fraction), 2), largest_class)
    if num_parts < 2:
        raise ValueError("Too few patients for training and validation: add patients.")
    folds = StratifiedGroupKFold(num_parts, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class smaller than num_parts is fine here
        return next(iter(folds.split(groups, classes.astype(str), groups)))[1]


def _folds(
    groups: np.ndarray, classes: np.ndarray, splits: Splits, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if splits.scheme == "leave-one-patient-out":
        return iter(LeaveOneGroupOut().split(groups, classes, groups))
    folds = StratifiedGroupKFold(splits.num_folds, shuffle=True, random_state=seed)
    return iter(folds.split(groups, classes, groups))


def _validation_rows(
    rest: np.ndarray, groups: np.ndarray, classes: np.ndarray, splits: Splits, seed: int
) -> np.ndarray:
    return rest[hold_out(groups[rest], classes[rest], splits.val_fraction, seed)]


def _refuse_small_classes(groups: np.ndarray, classes: np.ndarray, splits: Splits) -> None:
    needed = splits.num_folds if splits.scheme == "k-fold" else 2
    for label in sorted(set(classes)):
        members = len(set(groups[classes == label]))
        if members < needed:
            raise ValueError(
                f"Class {label!r} has {members} patients, too few for {needed} folds. "
                f"Lower num_folds to {max(members, 2)} or merge classes."
            )
