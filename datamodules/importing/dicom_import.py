"""Import DICOM series: one NIfTI file each, a cohort table, and no word about a person.

Names, dates and texts stay in the hospital's files; patients and files are named by keyed hashes.
Whoever must join labels asks for the mapping, a private table that lies where they say and that
nobody but its owner may read.
"""

import gzip
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from datamodules.importing.dicom_files import Found, find_pictures
from datamodules.importing.dicom_header import Picture
from datamodules.importing.dicom_mixture import refuse_mixture, why_skipped
from datamodules.importing.dicom_remarks import geometry_remarks, identity_remarks, repeat_remarks
from datamodules.importing.dicom_stack import Stack, stack
from datamodules.importing.dicom_table import (
    COLUMNS,
    MAPPING_COLUMNS,
    facts,
    header,
    keep_earlier_rows,
    private_facts,
    sessions,
    write_table,
)
from datamodules.importing.dicom_voxels import Unpacker, read_voxels
from datamodules.importing.pseudonyms import pseudonym, read_or_make_key
from files.whole_file import whole_file


@dataclass
class Import:
    """What an import did.

    Args:
        found: What lay in the folder.
        rows: Rows of the cohort table; empty if nothing could be imported.
        refused: One line per faulty series or file.
        skipped: One line per series that is no volume, or that was not asked for.
        remarks: One line per thing to look at.
    """

    found: Found
    rows: list[dict[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def import_series(
    source: Path,
    folder: Path,
    key_path: Path,
    mapping: Path | None = None,
    wanted: str = "*",
    patient_folder: int = 0,
) -> Import:
    """Write the sound series under a folder as NIfTI files, with their cohort table.

    Args:
        source: Folder or tree of DICOM files.
        folder: Where cohort.csv and scans/ are written.
        key_path: The key of the pseudonyms; made if it is missing.
        mapping: Where to write the private table from pseudonyms to PatientID; None for nowhere.
        wanted: Pattern of the SeriesDescription, such as '*mprage*'; case does not count.
        patient_folder: Which folder below the source names the patient of series without
            PatientID, from 1; 0 for none.

    Returns:
        What was imported, refused and skipped; a refused series does not stop the others.

    Raises:
        ValueError: If a folder cannot be used, or holds something else already.
    """
    _check_places(source, folder, key_path, mapping)
    done = Import(find_pictures(source, leave_out=folder))
    if patient_folder:
        done.found.pictures = _named_by_folder(done.found.pictures, source, patient_folder)
    stacks = _stacks(done, source, wanted)
    if not stacks:
        return done
    try:
        with closing(Unpacker()) as unpacker:
            return _write(done, stacks, source, folder, key_path, mapping, unpacker)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(error.filename or folder)!r}: {error.strerror}."
        ) from error


def _named_by_folder(pictures: list[Picture], source: Path, level: int) -> list[Picture]:
    """The pictures, those without PatientID with the name of their folder at a level."""
    named = []
    for picture in pictures:
        folders = picture.path.relative_to(source).parts[:-1]
        if not picture.patient_id and level <= len(folders):
            picture = replace(picture, patient_id=folders[level - 1])
        named.append(picture)
    return named


def _stacks(done: Import, source: Path, wanted: str) -> dict[str, Stack]:
    """The sound stacks by series; whatever is not goes into `done`, one line each."""
    stacks = {}
    for uid, pictures in _series(done, source).items():
        name = _series_name(uid, [picture.path for picture in pictures], source)
        try:
            if not fnmatchcase(pictures[0].description.lower(), wanted.lower()):
                done.skipped.append(f"{name}: its description does not match SERIES={wanted}")
                continue
            if reason := why_skipped(pictures, wanted):
                done.skipped.append(f"{name}: {reason}")
                continue
            refuse_mixture(pictures)
            stacks[uid] = stack(pictures)
        except ValueError as error:
            done.refused.append(f"{name}: {error}.")
    return stacks


def _series(done: Import, source: Path) -> dict[str, list[Picture]]:
    """Pictures by series, without the series that a broken file next to them belongs to."""
    series: dict[str, list[Picture]] = defaultdict(list)
    in_folder: dict[Path, set[str]] = defaultdict(set)
    for picture in done.found.pictures:
        series[picture.series_uid].append(picture)
        in_folder[picture.path.parent].add(picture.series_uid)
    alike: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path, reason in done.found.broken.items():
        alike[path.parent, re.sub(r"\d+", "", reason)].append(path)
    for (folder, _), (path, *others) in alike.items():
        reason = done.found.broken[path]
        more = f" (and {len(others)} next to it)" if others else ""
        line = f"File {str(path.relative_to(source))!r}{more} {reason}"
        if len(in_folder[folder]) == 1:
            series.pop(next(iter(in_folder[folder])), None)
            line += "; the series next to it may lack this slice and is held back"
        done.refused.append(f"{line}.")
    return series


def _write(
    done: Import,
    stacks: dict[str, Stack],
    source: Path,
    folder: Path,
    key_path: Path,
    mapping: Path | None,
    unpacker: Unpacker,
) -> Import:
    table = folder / "cohort.csv"
    if table.exists() and not key_path.exists():
        raise ValueError(
            f"{folder} holds an earlier import, but its key {str(key_path)!r} is gone, and a new "
            "key gives new patient ids. Say where the key is (KEY=…), or take another OUT."
        )
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    key_path.parent.mkdir(parents=True, exist_ok=True)
    key = read_or_make_key(key_path)
    images = {uid: f"scans/{pseudonym(key, 's', uid)}.nii.gz" for uid in stacks}
    keep_earlier_rows(table, set(images.values()))
    session_of, private, imported = sessions(done.found.pictures), [], []
    patient_of = {
        picture.patient_id: pseudonym(key, "p", picture.patient_id)
        for picture in (slices.pictures[0] for slices in stacks.values())
    }
    done.remarks += identity_remarks(done.found.pictures, patient_of)
    for uid, slices in tqdm(stacks.items(), desc="Series", leave=False, disable=None):
        first = slices.pictures[0]
        name = _series_name(uid, [picture.path for picture in slices.pictures], source)
        try:
            voxels = read_voxels(slices.pictures, unpacker)
        except (ValueError, MemoryError) as error:
            done.refused.append(f"{name}: {error}.")
            continue
        _save(voxels, slices.affine, folder / images[uid])
        who = {
            "patient_id": patient_of[first.patient_id],
            "session": str(session_of[first.patient_id, first.study_uid]),
            "image": images[uid],
        }
        done.rows.append(who | facts(slices))
        private.append(who | private_facts(first, source))
        done.remarks += [f"{name}: {remark}" for remark in geometry_remarks(slices)]
        imported.append(slices)
    done.remarks += repeat_remarks(imported)
    if done.rows:
        write_table(table, COLUMNS, done.rows, mode=0o666)
        if mapping is not None:
            mapping.parent.mkdir(parents=True, exist_ok=True)
            write_table(mapping, MAPPING_COLUMNS, private, mode=0o600)
    return done


def _check_places(source: Path, folder: Path, key_path: Path, mapping: Path | None) -> None:
    if not source.is_dir():
        what = "is a file. Give its folder" if source.exists() else "does not exist. Check the path"
        raise ValueError(f"{str(source)!r} {what} in SRC=.")
    if (folder.exists() and not folder.is_dir()) or folder.resolve() == source.resolve():
        raise ValueError(f"{str(folder)!r} is no place to import into. Give a new folder in OUT=.")
    for path, word in ((key_path, "KEY"), (mapping, "MAPPING")):
        if path is not None and path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{word}={path} lies in the folder that you may share. Put it elsewhere."
            )
    if mapping is not None and mapping.exists() and header(mapping) != MAPPING_COLUMNS:
        raise ValueError(f"MAPPING={mapping} exists and is no mapping of ours. Give a new file.")


def _series_name(uid: str, paths: Sequence[Path], source: Path) -> str:
    common = Path(os.path.commonpath([path.parent for path in paths])).relative_to(source)
    first = min(paths).name
    return f"Series {uid[:64]!r} in {str(common)!r} ({len(paths)} slices, first file {first!r})"


def _save(voxels: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a NIfTI file that knows nothing but voxels and geometry, whole or not at all."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with whole_file(path) as unfinished:
        unfinished.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
