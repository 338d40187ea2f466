"""Find the DICOM pictures under a folder, whatever the names of their files."""

import gzip
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from tqdm import tqdm

from datamodules.importing.dicom_header import Picture, read_pictures, what_else

SUFFIXES = (".dcm", ".dicom", ".ima")
COPY = "Copy it again, or take it out of SRC"


@dataclass
class Found:
    """What lies under a folder.

    Args:
        pictures: The slices.
        broken: Why a file that should be one cannot be read, and what to do.
        passed_over: Other files, counted by what they are.
        no_scans: DICOM files without an image, counted by their kind.
    """

    pictures: list[Picture] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    no_scans: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Tell what was passed over, one line for each sort."""
        lines = [f"{number} {what}" for what, number in self.passed_over.items() if number]
        if self.no_scans:
            kinds = ", ".join(f"{number} {kind}" for kind, number in self.no_scans.most_common())
            lines.append(f"{self.no_scans.total()} DICOM files that are no scan ({kinds})")
        return lines


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
                found.pictures += _read(path, found)
            except ValueError as error:
                found.broken[path] = str(error)
    return found


def _files(source: Path, leave_out: Path, found: Found) -> Iterator[Path]:
    root, seen = source.resolve(), set()

    def unreadable(error: OSError) -> None:
        found.broken[Path(error.filename)] = (
            f"cannot be entered ({error.strerror}). Make it readable"
        )

    for folder, folders, names in os.walk(source, onerror=unreadable):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found.passed_over["links to folders"] += len(links)
        folders[:] = sorted(
            name
            for name in set(folders) - set(links)
            if not name.startswith(".") and (Path(folder) / name).resolve() != leave_out.resolve()
        )
        here = Path(folder).resolve()
        for path in (Path(folder) / name for name in sorted(names)):
            target = path.resolve() if path.is_symlink() else here / path.name
            if path.name.startswith("."):
                found.passed_over["hidden files"] += 1
            elif not target.is_relative_to(root):
                found.passed_over["links out of the folder"] += 1
            elif not path.is_file():  # a pipe would block for ever
                found.passed_over["broken links and special files"] += 1
            elif target in seen:
                found.passed_over["links to files that were read"] += 1
            else:
                seen.add(target)
                yield path


def _read(path: Path, found: Found) -> list[Picture]:
    """Slices of one file; none, and counted, if an import passes it over."""
    if path.name.upper() == "DICOMDIR":
        found.passed_over["directories of a medium (DICOMDIR)"] += 1
        return []
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror}). Make it readable") from error
    has_suffix, has_mark = path.suffix.lower() in SUFFIXES, head[128:] == b"DICM"
    if head[:2] == b"\x1f\x8b" and _is_gzipped_dicom(path):
        raise ValueError("is a gzipped DICOM file. Unpack such files: gunzip -r SRC")
    if has_mark or head[:2] in (b"\x08\x00", b"\x02\x00"):  # or a bare data set
        pictures: list[Picture] | str | None
        try:
            pictures = read_pictures(path)
        except Exception as error:  # pydicom raises anything for a corrupt file
            pictures = _what_else(path)
            if not pictures and (has_suffix or has_mark):
                reason = str(error) if isinstance(error, ValueError) else type(error).__name__
                reason = " ".join(reason.split())[:200]
                raise ValueError(f"cannot be read: {reason}. {COPY}") from error
        if isinstance(pictures, list):
            return pictures
        if pictures:
            found.no_scans[pictures] += 1
            return []
    elif has_suffix:
        raise ValueError(f"is no DICOM file, though its name ends in {path.suffix}. {COPY}")
    found.passed_over["files that are not DICOM"] += 1
    return []


def _is_gzipped_dicom(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            head = file.read(132)
    except (OSError, EOFError, zlib.error):
        head = b""
    return head[128:] == b"DICM" or Path(path.stem).suffix.lower() in SUFFIXES


def _what_else(path: Path) -> str | None:
    """What a file is that cannot be read to its end, if its first bytes tell that it is no scan."""
    try:
        return what_else(read_file_meta_info(path).MediaStorageSOPClassUID)
    except Exception:  # pydicom raises anything for a corrupt file
        return None
