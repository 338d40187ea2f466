"""Divide patients into training, validation and test, and keep the division as a table.

The table has the columns repeat, fold, patient_id, part; part is 'train', 'val' or 'test'. A fold
without 'val' rows is trained without validation, or validates on its test patients (protocol
'paper').
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.division import divide
from files.run_path import run_path

Names = Sequence[str] | np.ndarray
COLUMNS = ["repeat", "fold", "patient_id", "part"]
PARTS = np.array(["train", "val", "test"])
MISSING = 10.0  # cost of a class without a patient in a part
MISSING_IN_TRAINING = 1e4  # no validation part is worth it


@dataclass(frozen=True)
class Splits:
    """How patients are divided; all of a patient's scans stay together.

    Args:
        scheme: 'k-fold' divides patients so that folds are as even as possible in patients, scans
            and classes; 'leave-one-patient-out' has as many folds as patients,
            'leave-one-site-out' as many as the column site has values.
        num_folds: Folds of 'k-fold'.
        num_repeats: Divisions, each with a seed of its own.
        val_fraction: Share of the training patients that validates, which a callback with a
            `monitor` needs (the best epoch, early stopping); also of their scans, as nearly as
            whole patients allow. Every class with two patients is in both parts, even where that
            takes more. 0 trains on all of them for a fixed number of epochs; calibration then
            comes from the other folds.
        train_fraction: Share of a fold's training patients that is used, of each class alike, for
            learning curves. A smaller share is part of a larger one; test parts stay.
        protocol: 'nested' takes the validation patients from the training part; 'paper' lets the
            test patients choose the checkpoint as MCTL §4.2 does, which is optimistic.
        seed: Seed of all divisions.
        path: A splits.csv, or a run that has one, to use instead of all of the above.
    """

    scheme: Literal["k-fold", "leave-one-patient-out", "leave-one-site-out"] = "k-fold"
    num_folds: int = 5
    num_repeats: int = 5
    val_fraction: float = 0.0
    train_fraction: float = 1.0
    protocol: Literal["nested", "paper"] = "nested"
    seed: int = 0
    path: str | None = None


def make_splits(
    patients: Names, labels: Names, splits: Splits, sites: Names | None = None
) -> pd.DataFrame:
    """Draw all folds of all repeats.

    Args:
        patients: Patient of each scan, (N,).
        labels: Class of each scan, (N,).
        splits: How to divide.
        sites: Site of each scan, (N,); for 'leave-one-site-out'.

    Returns:
        The splits table.

    Raises:
        ValueError: If a class has fewer patients than folds, a setting is out of range, or sites
            cannot be left out: one is missing, a patient was at two, a class is at one alone.
    """
    if splits.val_fraction:
        _refuse_fraction(splits.val_fraction)
    if not 0 < splits.train_fraction <= 1:
        raise ValueError(f"train_fraction is {splits.train_fraction}; it must be above 0, up to 1.")
    if splits.num_folds < 2 or splits.num_repeats < 1:
        raise ValueError(
            f"num_folds is {splits.num_folds} and num_repeats {splits.num_repeats}; "
            "they must be at least 2 and 1."
        )
    cohort = _count_scans(patients, labels)
    _refuse_small_classes(cohort, splits)
    places = None
    if splits.scheme == "leave-one-site-out":
        places = _site_of_patients(cohort, sites if sites is not None else [""] * len(patients))
    columns: list[list[np.ndarray]] = []
    for repeat in range(splits.num_repeats):
        for fold, test in enumerate(_test_parts(cohort.counts, splits, repeat, places)):
            part = np.where(test, 2, 0)  # positions in PARTS
            if splits.protocol == "nested" and splits.val_fraction:
                rest = np.flatnonzero(~test)
                generator = np.random.default_rng((splits.seed, repeat, fold + 1))
                part[rest[_chosen(cohort.counts[rest], splits.val_fraction, generator)]] = 1
            generator = np.random.default_rng((splits.seed, repeat, fold + 1, 1))
            used = part > 0
            training = np.flatnonzero(~used)
            used[training] = _used(cohort.counts[training], splits.train_fraction, generator)
            order = part.argsort(kind="stable")
            order = order[used[order]]
            numbers = [np.full(len(order), number) for number in (repeat, fold)]
            columns.append([*numbers, cohort.patients[order], PARTS[part[order]]])
    stacked = [np.concatenate(column) for column in zip(*columns, strict=True)]
    return pd.DataFrame(dict(zip(COLUMNS, stacked, strict=True)))


def read_splits(path: str | Path) -> pd.DataFrame:
    """Read a splits table from a file or from a run, by its name or folder.

    Raises:
        ValueError: If it is missing, has other columns, or puts a patient into two parts.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        folder = file if file.is_dir() else run_path(str(path))
        file = folder / "splits.csv"
    if not file.is_file():
        raise ValueError(
            f"Splits {str(path)!r}: no such file (looked for {file}). Give a splits.csv or a run."
        )
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


def fold_runs(table: pd.DataFrame) -> list[tuple[int, int]]:
    """List every (repeat, fold) of a splits table in order."""
    pairs = table[["repeat", "fold"]].drop_duplicates().sort_values(["repeat", "fold"])
    return [(int(repeat), int(fold)) for repeat, fold in pairs.to_numpy()]


def folds_tested(table: pd.DataFrame) -> pd.DataFrame:
    """Take who is tested in which fold, in one order: runs with the same can be paired."""
    tested = table.loc[table["part"] == "test", ["repeat", "fold", "patient_id"]]
    return tested.sort_values(list(tested.columns), ignore_index=True)


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
    """Choose patients who are about `fraction` of all, and have about that share of the scans.

    Every class of at least two patients is on both sides if that can be; a class of one patient
    is not held out.

    Args:
        patients: Patient of each scan, (N,).
        labels: Class of each scan, (N,).
        fraction: Share to hold out.
        seed: Seed of the choice.

    Returns:
        Positions of the chosen patients' scans, at least one patient's and never all.

    Raises:
        ValueError: If there are too few patients, or the fraction is out of range.
    """
    _refuse_fraction(fraction)
    cohort = _count_scans(patients, labels)
    chosen = _chosen(cohort.counts, fraction, np.random.default_rng(seed))
    return np.flatnonzero(chosen[cohort.rows])


@dataclass(frozen=True)
class _Cohort:
    """Scans by patient and class, in an order that does not depend on the table's.

    Args:
        patients: Names in order, (P,).
        classes: Names in order, (K,).
        rows: Position in `patients` of each scan's patient, (N,).
        counts: Scans of each patient in each class, (P, K).
    """

    patients: np.ndarray
    classes: np.ndarray
    rows: np.ndarray
    counts: np.ndarray


def _count_scans(patients: Names, labels: Names) -> _Cohort:
    names, rows = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    classes, columns = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    return _Cohort(names, classes, rows, counts)


def _site_of_patients(cohort: _Cohort, sites: Names) -> np.ndarray:
    """Name the site of each patient, (P,)."""
    sites = np.asarray(sites).astype(str)
    for patient, site in zip(cohort.patients[cohort.rows], sites, strict=True):
        if not site:
            raise ValueError(
                f"Patient {str(patient)!r} has a scan without a site, which 'leave-one-site-out' "
                "needs: fill the column site, or name it in --data.columns.site."
            )
    pairs = sorted(set(zip(cohort.rows.tolist(), sites.tolist(), strict=True)))
    for (row, site), (other, second) in itertools.pairwise(pairs):
        if row == other:
            raise ValueError(
                f"Patient {str(cohort.patients[row])!r} has scans of the sites {site!r} and "
                f"{second!r}: whoever is left out at one would be trained on at the other. Give "
                "the patient one site."
            )
    place = np.array([site for _, site in pairs])
    for column, label in enumerate(cohort.classes):
        if len(here := set(place[cohort.counts[:, column] > 0])) == 1:
            raise ValueError(
                f"Class {str(label)!r} is at the site {str(here.pop())!r} alone: a model trained "
                "without that site cannot know it. Use k-fold."
            )
    return place


def _test_parts(
    counts: np.ndarray, splits: Splits, repeat: int, places: np.ndarray | None
) -> np.ndarray:
    """Which patients each fold tests, (folds, P)."""
    if places is not None:
        return places == np.unique(places)[:, None]
    if splits.scheme == "leave-one-patient-out":
        return np.eye(len(counts), dtype=bool)
    shares = np.full(splits.num_folds, 1 / splits.num_folds)
    missing = np.full(splits.num_folds, MISSING)
    generator = np.random.default_rng((splits.seed, repeat))
    return divide(counts, shares, missing, generator) == np.arange(splits.num_folds)[:, None]


def _chosen(counts: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Which patients to hold out, (P,)."""
    counts = counts[:, counts.any(0)]
    shares, missing = np.array([fraction, 1 - fraction]), np.array([MISSING, MISSING_IN_TRAINING])
    chosen = divide(counts, shares, missing, generator) == 0
    if not chosen.any():
        raise ValueError(
            f"Too few patients for training and validation: each of {len(counts)} is the only one "
            "of a class. Add patients."
        )
    return chosen


def _used(counts: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Which training patients to use, (P,): of those with the same classes the first ones drawn."""
    kinds = np.unique(counts > 0, axis=0, return_inverse=True)[1].ravel()
    order, place = generator.permutation(len(counts)), np.empty(len(counts))
    for kind in range(kinds.max() + 1):
        members = order[kinds[order] == kind]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    used = place <= fraction
    for has_class in counts.T > 0:
        if has_class.any() and not (used & has_class).any():
            members = np.flatnonzero(has_class)
            used[members[place[members].argmin()]] = True
    return used


def _refuse_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction is {fraction}; it must lie between 0 and 1.")


def _refuse_small_classes(cohort: _Cohort, splits: Splits) -> None:
    needed = splits.num_folds if splits.scheme == "k-fold" else 2
    for label, members in zip(cohort.classes, (cohort.counts > 0).sum(0), strict=True):
        if members < needed:
            raise ValueError(
                f"Class {str(label)!r} has {members} patients, too few for {needed} folds. "
                f"Lower num_folds to {max(members, 2)} or merge classes."
            )
