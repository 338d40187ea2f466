"""Read a cohort table: one row per scan, everything a string, every fault named."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from datamodules.reading.columns import Columns, column_positions
from datamodules.reading.image_path import as_on_disk, find_image
from datamodules.reading.nifti_bytes import ScanError, header_file, is_picture
from datamodules.reading.table_lines import read_lines

YES, NO = ("yes", "true", "1"), ("", "no", "false", "0")


@dataclass(frozen=True)
class Scan:
    """One row of a cohort table: the images of one patient at one visit; missing cells are ''.

    Args:
        patient_id: Its patient.
        image: Name of its first image, by which it is called.
        path: Absolute path of that image.
        label: Its class.
        session: Its visit.
        site: Where it was made.
        mask: Name of its mask.
        row: Line of the table's file where it ends.
        names: Name of each contrast's image, '' where it is missing; () in a table without
            contrasts.
        contrasts: Their absolute paths, None where one is missing.
        mask_path: Absolute path of the mask, None where the row has none or none is asked for.
        synthetic: Whether it is for training alone.
    """

    patient_id: str
    image: str
    path: Path
    label: str = ""
    session: str = ""
    site: str = ""
    mask: str = ""
    target: str = ""
    synthetic: bool = False
    row: int = 0
    names: tuple[str, ...] = ()
    contrasts: tuple[Path | None, ...] = ()
    mask_path: Path | None = None

    @property
    def paths(self) -> tuple[Path | None, ...]:
        """Path of each contrast's image; None where the cell is empty."""
        return self.contrasts or (self.path,)

    @property
    def images(self) -> list["Scan"]:
        """The row once for each image that it has."""
        if not self.contrasts:
            return [self]
        return [
            replace(self, image=name, path=path, names=(), contrasts=())
            for name, path in zip(self.names, self.contrasts, strict=True)
            if path is not None
        ]


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


def read_cohort_table(
    table: str | Path,
    columns: Columns = Columns(),
    contrasts: Sequence[str] = (),
    *,
    masks: bool = False,
) -> list[Scan]:
    """Read a CSV or TSV cohort table.

    Args:
        table: Path of the table; comma, semicolon and tab are recognised from the header line.
        columns: Names of the columns to read; others are ignored.
        contrasts: Names of the contrasts, where a row has several images; not every row needs
            all of them.
        masks: Whether each row needs a mask.

    Returns:
        One scan per row, in the table's order.

    Raises:
        ValueError: With one line per fault: missing columns, rows of the wrong length, empty
            cells, files that are missing, not NIfTI, outside the table's folder or listed twice.
    """
    scans, faults = read_rows(table, columns, contrasts, masks=masks)
    if faults:
        heading = f"Cohort table {table}: {len(faults)} row{'s' * (len(faults) > 1)} to fix."
        raise ValueError("\n  ".join([heading, *map(str, faults)]))
    return scans


def read_rows(
    table: str | Path,
    columns: Columns = Columns(),
    contrasts: Sequence[str] = (),
    *,
    masks: bool = False,
) -> tuple[list[Scan], list[RowFault]]:
    """Read a cohort table as `read_cohort_table` does, but return the faults of its rows.

    Returns:
        The scans that can be used, and the faults of the others.

    Raises:
        ValueError: If the table itself cannot be read.
    """
    table = Path(table).expanduser()
    if not table.is_file():
        raise ValueError(f"Cohort table {str(table)!r} does not exist. Check the path in DATA=.")
    lines = read_lines(table)
    if len(lines) < 2:
        raise ValueError(f"Cohort table {table} has no rows below its header line.")
    needed = [columns.patient_id, *columns.images(contrasts), *([columns.mask] if masks else [])]
    positions = column_positions(table, lines[0][1], columns, needed)
    places = [positions[name] for name in columns.images(contrasts)]
    scans, faults = [], []
    seen: dict[tuple[int, int], int] = {}
    for line_number, cells in lines[1:]:
        if len(cells) != len(lines[0][1]):
            what = f"{len(cells)} cells where the header has {len(lines[0][1])}"
            faults.append(RowFault(line_number, "", "", what, "Add or remove separators"))
            continue
        row: dict[str, Any] = {
            field.name: cells[positions[name]].strip()
            for field in fields(columns)
            if (name := getattr(columns, field.name)) in positions and field.name != "image"
        }
        names = [as_on_disk(table.parent, cells[place].strip()) for place in places]
        image = next(filter(None, names), "")
        try:
            if not row["patient_id"]:
                raise ScanError("patient_id is empty", "Name the patient")
            row["synthetic"] = _is_yes(row.get("synthetic", ""))
            if not image:
                raise ScanError("image is empty", "Name a file or drop the row")
            paths = []
            for image in names:
                paths.append(_find_once(table.parent, image, line_number, seen) if image else None)
            if masks and not row["mask"]:
                raise ScanError("has no mask", "Fill the column, or leave the row out")
            mask_path = find_image(table.parent, row["mask"]) if masks else None
        except ScanError as fault:
            who = row["patient_id"], image
            faults.append(RowFault(line_number, *who, fault.what, fault.fix))
        else:
            first = next(place for place, path in enumerate(paths) if path is not None)
            path = paths[first]
            assert path is not None
            scan = Scan(path=path, row=line_number, mask_path=mask_path, image=names[first], **row)
            if contrasts:
                scan = replace(scan, names=tuple(names), contrasts=tuple(paths))
            scans.append(scan)
    kinds = Counter(is_picture(image.path) for scan in scans for image in scan.images)
    if len(kinds) > 1:
        raise ValueError(
            f"Cohort table {table} names {kinds[True]} pictures and {kinds[False]} volumes, which "
            "no network takes alike: write a table for each."
        )
    return scans, faults


def _is_yes(cell: str) -> bool:
    """Whether a row is synthetic."""
    if (answer := cell.lower()) not in YES + NO:
        raise ScanError(f"synthetic is {cell!r}", "Write yes or no")
    return answer in YES


def _find_once(folder: Path, image: str, line: int, seen: dict[tuple[int, int], int]) -> Path:
    """The path of an image, which no earlier cell may have named."""
    path = find_image(folder, image)
    file = os.stat(header_file(path) if header_file(path).exists() else path)
    if (file.st_dev, file.st_ino) in seen:
        earlier = seen[file.st_dev, file.st_ino]
        where = f"already in row {earlier}" if earlier != line else "twice in this row"
        raise ScanError(f"is listed {where}, perhaps by another name", "List each file once")
    seen[file.st_dev, file.st_ino] = line
    return path


def read_other_columns(
    table: str | Path, columns: Columns = Columns(), contrasts: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Read the columns that are neither names, nor images, nor labels, as they are.

    Args:
        table: Path of a table that `read_cohort_table` accepts.
        columns: Names of the columns that are left out.
        contrasts: Names of the contrasts, whose images are left out.

    Returns:
        The cells of each other column, in the table's order; '' where a cell is empty.
    """
    (_, header), *lines = read_lines(Path(table).expanduser())
    used = {getattr(columns, field.name) for field in fields(columns)}
    used = used - {columns.image, columns.mask} | set(columns.images(contrasts))
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
