"""Read a cohort table: one row per scan, everything a string, every fault named."""

import csv
import errno
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

from datamodules.reading.nifti_bytes import SUFFIXES, ScanError, header_file

NO_TABLES = {  # what a file begins with, what it is, and what to do
    b"PK\x03\x04": "a spreadsheet (Excel or another): save it as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV (UTF-8)",
    b"version https://git-lfs": "a Git LFS pointer, not the table: fetch it with git lfs pull",
    b"/annex/objects": "a git-annex pointer, not the table: fetch it with git annex get",
    b"PAR1": "a Parquet file: save it as CSV (UTF-8)",
    b"\x1f\x8b": "compressed: gunzip it",
}


@dataclass(frozen=True)
class Columns:
    """Names of the cohort table's columns.

    Args:
        patient_id: Column that names the patient; rows of one patient never part in a split.
        image: Column with the scan's path, absolute or relative to the table's folder, which a
            relative one must not leave.
        label: Column with the class; may be absent where no class is needed.
        session: Column with the visit; may be absent.
        site: Column with the scanner or hospital; may be absent.
    """

    patient_id: str = "patient_id"
    image: str = "image"
    label: str = "label"
    session: str = "session"
    site: str = "site"


@dataclass(frozen=True)
class Scan:
    """One row of a cohort table; `path` is `image` made absolute, missing cells are ''.

    `row` is the line of the file where it ends.
    """

    patient_id: str
    image: str
    path: Path
    label: str = ""
    session: str = ""
    site: str = ""
    row: int = 0


@dataclass(frozen=True)
class RowFault:
    """A row that cannot be used: its line, patient and image as far as known, what and fix."""

    line: int
    patient_id: str
    image: str
    what: str
    fix: str

    def __str__(self) -> str:
        who = f"patient {self.patient_id!r}: " if self.patient_id else ""
        which = f"image {self.image!r} " if self.patient_id and self.image else ""
        return f"row {self.line}: {who}{which}{self.what}. {self.fix}."


def read_cohort_table(table: str | Path, columns: Columns = Columns()) -> list[Scan]:
    """Read a CSV or TSV cohort table.

    Args:
        table: Path of the table; comma, semicolon and tab are recognised from the header line.
        columns: Names of the columns to read; others are ignored.

    Returns:
        One scan per row, in the table's order.

    Raises:
        ValueError: With one line per fault: missing columns, rows of the wrong length, empty
            cells, files that are missing, not NIfTI, outside the table's folder or listed twice.
    """
    scans, faults = read_rows(table, columns)
    if faults:
        heading = f"Cohort table {table}: {len(faults)} row{'s' * (len(faults) > 1)} to fix."
        raise ValueError("\n  ".join([heading, *map(str, faults)]))
    return scans


def read_rows(table: str | Path, columns: Columns = Columns()) -> tuple[list[Scan], list[RowFault]]:
    """Read a cohort table as `read_cohort_table` does, but return the faults of its rows.

    Returns:
        The scans that can be used, and the faults of the others.

    Raises:
        ValueError: If the table itself cannot be read.
    """
    table = Path(table).expanduser()
    if not table.is_file():
        raise ValueError(f"Cohort table {str(table)!r} does not exist. Check the path in DATA=.")
    lines = _read_lines(table)
    if len(lines) < 2:
        raise ValueError(f"Cohort table {table} has no rows below its header line.")
    positions = _column_positions(table, lines[0][1], columns)
    scans, faults = [], []
    seen: dict[tuple[int, int], int] = {}
    for line_number, cells in lines[1:]:
        if len(cells) != len(lines[0][1]):
            what = f"{len(cells)} cells where the header has {len(lines[0][1])}"
            faults.append(RowFault(line_number, "", "", what, "Add or remove separators"))
            continue
        row = {name: cells[position].strip() for name, position in positions.items()}
        row["image"] = _as_on_disk(table.parent, row["image"])
        try:
            path = _find_image(table.parent, row["patient_id"], row["image"])
            file = os.stat(header_file(path) if header_file(path).exists() else path)
            if (earlier := seen.setdefault((file.st_dev, file.st_ino), line_number)) != line_number:
                raise ScanError(
                    f"is listed already in row {earlier}, perhaps by another name",
                    "List each file once",
                )
        except ScanError as fault:
            who = row["patient_id"], row["image"]
            faults.append(RowFault(line_number, *who, fault.what, fault.fix))
        else:
            scans.append(Scan(path=path, row=line_number, **row))
    return scans, faults


def read_other_columns(table: str | Path, columns: Columns = Columns()) -> dict[str, list[str]]:
    """Read the columns that the project itself does not use, as they are.

    Args:
        table: Path of a table that `read_cohort_table` accepts.
        columns: Names of the columns that are left out.

    Returns:
        The cells of each other column, in the table's order; '' where a cell is empty.
    """
    (_, header), *lines = _read_lines(Path(table).expanduser())
    used = {getattr(columns, field.name) for field in fields(columns)}
    return {
        name.strip(): [cells[position].strip() for _, cells in lines]
        for position, name in enumerate(header)
        if name.strip() and name.strip() not in used
    }


def conflicting_labels(scans: Sequence[Scan]) -> dict[str, list[str]]:
    """Map each patient whose scans have different labels to these labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        labels[scan.patient_id] |= {scan.label} - {""}
    return {patient: sorted(found) for patient, found in labels.items() if len(found) > 1}


def _read_lines(table: Path) -> list[tuple[int, list[str]]]:
    content = table.read_bytes()
    for start, what in NO_TABLES.items():
        if content.startswith(start):
            raise ValueError(f"Cohort table {table} is {what}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"Cohort table {table} is not UTF-8 text: save it as UTF-8.") from error
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    if told := re.match(r"sep=([,;\t])\r?\n", text, re.IGNORECASE):  # for Excel
        delimiter, text = told[1], text[len(told[0]) - 1 :]  # rows keep their numbers
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ValueError(f"Cohort table {table}, row {reader.line_num}: {error}.") from error


def _column_positions(table: Path, header: list[str], columns: Columns) -> dict[str, int]:
    names = [name.strip() for name in header]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"Cohort table {table} has two columns named {repeated[0]!r}.")
    if any(name.lower().endswith(SUFFIXES) for name in names):
        raise ValueError(
            f"Cohort table {table} has no header line: its first line names a scan. Write "
            f"{columns.patient_id},{columns.image},{columns.label} above it, in the order of the "
            "columns."
        )
    positions = {}
    for field in fields(columns):
        wanted = getattr(columns, field.name)
        if wanted in names:
            positions[field.name] = names.index(wanted)
        elif field.name in ("patient_id", "image") or wanted != field.default:
            raise ValueError(
                f"Cohort table {table} has no column {wanted!r}{_suggestion(wanted, names)}; "
                f"it has {names}. Rename it or set --data.columns.{field.name}."
            )
    return positions


def _as_on_disk(folder: Path, image: str) -> str:
    """The name with its accents composed or apart, as the disk has it: macOS takes them apart."""
    spellings = (image, *(unicodedata.normalize(form, image) for form in ("NFC", "NFD")))
    with suppress(OSError, ValueError):  # too long, a zero byte
        return next((name for name in spellings if (folder / name).exists()), image)
    return image


def _find_image(folder: Path, patient_id: str, image: str) -> Path:
    """Make an image's path absolute, following links."""
    if not patient_id:
        raise ScanError("patient_id is empty", "Name the patient")
    if not image:
        raise ScanError("image is empty", "Name a file or drop the row")
    outside = os.path.normpath(image).split(os.sep)[0] == os.pardir
    if outside and not os.path.isabs(image):
        raise ScanError(
            "climbs out of the table's folder", "Move the table, or write an absolute path"
        )
    try:
        path = (folder / image).resolve(strict=True)
        if not path.is_file():
            raise ScanError("is not a file", "Name a file")
    except (FileNotFoundError, NotADirectoryError) as error:
        fix = "Write / instead of \\" if "\\" in image else "Correct its path"
        raise ScanError(f"does not exist (looked for {folder / image})", fix) from error
    except (RuntimeError, OSError, ValueError) as error:  # a loop of links, too long, a zero byte
        reason = "is a link that leads back to itself" if _loops(error) else f"has no path: {error}"
        raise ScanError(reason, "Name a file") from error
    if not image.lower().endswith(SUFFIXES):
        raise ScanError("is not a NIfTI file (.nii, .nii.gz, .hdr and .img) or .mgz", "Convert it")
    return Path(os.path.abspath(folder / image))


def _loops(error: Exception) -> bool:
    return isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP


def _suggestion(wanted: str, choices: Sequence[str]) -> str:
    close = get_close_matches(wanted, choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
