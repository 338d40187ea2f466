"""What the tables of a DICOM import tell: numbers in the cohort's, the rest in the private one."""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from math import isnan
from pathlib import Path

import nibabel as nib

from datamodules.importing.dicom_header import Picture
from datamodules.importing.dicom_stack import Stack
from files.whole_file import whole_file

COLUMNS = [
    *("patient_id", "session", "image", "modality", "num_slices", "spacing_mm"),
    *("echo_time_ms", "repetition_time_ms", "inversion_time_ms"),
]
MAPPING_COLUMNS = [
    *("patient_id", "session", "image", "dicom_patient_id", "sex", "age", "study_time"),
    *("series_number", "series_description", "folder"),
]


def sessions(pictures: Sequence[Picture]) -> dict[tuple[str, str], int]:
    """Number each patient's studies in their order in time, from 1, by (PatientID, study)."""
    return {
        (patient, study): number
        for patient, times in study_times(pictures).items()
        for number, study in enumerate(sorted(times, key=lambda study: (times[study], study)), 1)
    }


def study_times(pictures: Sequence[Picture]) -> dict[str, dict[str, str]]:
    """The earliest time of each study of each PatientID."""
    times: dict[str, dict[str, str]] = defaultdict(dict)
    for picture in pictures:
        earliest = times[picture.patient_id].get(picture.study_uid, picture.study_time)
        times[picture.patient_id][picture.study_uid] = min(picture.study_time, earliest)
    return times


def facts(slices: Stack) -> dict[str, str]:
    """Tell of a series what is a number, and its modality."""
    first = slices.pictures[0]
    spacing = nib.affines.voxel_sizes(slices.affine)
    timing = ["" if value is None or isnan(value) else f"{value:g}" for value in first.timing]
    return {
        "modality": first.modality if re.fullmatch("[A-Z]{2}", first.modality) else "",
        "num_slices": str(len(slices.pictures)),
        "spacing_mm": " ".join(f"{size:.4g}" for size in spacing),
        **dict(zip(COLUMNS[-3:], timing, strict=True)),
    }


def private_facts(first: Picture, source: Path) -> dict[str, str]:
    """Tell what finds a series again in the hospital, for the private table alone."""
    return {
        "dicom_patient_id": first.patient_id,
        "sex": first.person[2],
        "age": first.age,
        "study_time": first.study_time,
        "series_number": first.series_number,
        "series_description": first.description,
        "folder": str(first.path.parent.relative_to(source)),
    }


def keep_earlier_rows(table: Path, images: set[str]) -> None:
    """Raise if the table has rows that this import would drop."""
    if not table.exists():
        return
    if header(table) != COLUMNS:
        raise ValueError(f"{table} exists and is no import of ours. Give another folder in OUT=.")
    with table.open(newline="", encoding="utf-8") as file:
        lost = [row["image"] for row in csv.DictReader(file) if row["image"] not in images]
    if lost:
        raise ValueError(
            f"{table} has {len(lost)} scans that SRC does not give any more (first: {lost[0]!r}). "
            "Take another OUT, with the same KEY= to keep the patient ids, or delete the old one."
        )


def write_table(path: Path, columns: list[str], rows: list[dict[str, str]], mode: int) -> None:
    """Write a table, whole or not at all, with these permissions (less the user's mask)."""
    with whole_file(path) as unfinished:
        unfinished.unlink(missing_ok=True)
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(file, "w", newline="", encoding="utf-8", errors="replace") as opened:
            writer = csv.DictWriter(opened, columns)
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: [row[name] for name in columns[:3]]))


def header(table: Path) -> list[str]:
    """Names of the columns of a table that may not be ours."""
    with table.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\r\n").split(",")
