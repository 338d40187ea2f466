"""Find the DICOM pictures under a folder, whatever the names of their files."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from datamodules.importing.dicom_header import Picture, read_pictures

SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass
class Found:
    """What lies under a folder: pictures, broken files with the reason, what was passed over."""

    pictures: list[Picture] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)


def find_pictures(source: Path, leave_out: Path) -> Found:
    """Read the headers of all DICOM files under a folder, whatever their names.

    Args:
        source: Folder to walk; links that lead out of it are not followed.
        leave_out: Folder below it that is not entered.
    """
    found = Found()
    paths = list(_files(source, leave_out, found))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom remarks on every oddity of a header
        for path in tqdm(paths, desc="Headers", leave=False, disable=None):
            try:
                pictures = _read(path)
            except ValueError as error:
                found.broken[path] = str(error)
                continue
            if isinstance(pictures, str):
                found.passed_over[pictures] += 1
            else:
                found.pictures += pictures
    return found


def _files(source: Path, leave_out: Path, found: Found) -> Iterator[Path]:
    root, seen = source.resolve(), set()

    def unreadable(error: OSError) -> None:
        found.broken[Path(error.filename)] = f"cannot be entered ({error.strerror})"

    for folder, folders, names in os.walk(source, onerror=unreadable):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found.passed_over["links to folders"] += len(links)
        folders[:] = sorted(
            name
            for name in set(folders) - set(links)
            if not name.startswith(".") and (Path(folder) / name).resolve() != leave_out.resolve()
        )
        for path in (Path(folder) / name for name in sorted(names)):
            if path.name.startswith("."):
                found.passed_over["hidden files"] += 1
            elif path.is_symlink() and not path.resolve().is_relative_to(root):
                found.passed_over["links out of the folder"] += 1
            elif not path.is_file():  # a pipe would block for ever
                found.passed_over["broken links and special files"] += 1
            elif path.resolve() in seen:
                found.passed_over["links to files that were read"] += 1
            else:
                seen.add(path.resolve())
                yield path


def _read(path: Path) -> list[Picture] | str:
    """Slices of one file, or in a few words why an import passes it over."""
    if path.name.upper() == "DICOMDIR":
        return "directories of a medium (DICOMDIR)"
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror})") from error
    has_suffix = path.suffix.lower() in SUFFIXES
    sure = has_suffix or head[128:] == b"DICM"
    if head[128:] != b"DICM" and head[:2] not in (b"\x08\x00", b"\x02\x00"):  # nor a bare data set
        if has_suffix:
            raise ValueError(f"is no DICOM file, though its name ends in {path.suffix}")
        return "files that are not DICOM"
    try:
        return read_pictures(path) or "DICOM files without a volume (reports, screenshots)"
    except Exception as error:  # pydicom raises anything for a corrupt file
        if not sure:
            return "files that are not DICOM"
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise ValueError(f"cannot be read: {' '.join(reason.split())[:200]}") from error
