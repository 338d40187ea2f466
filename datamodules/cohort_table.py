"""Read a cohort table: one row per scan, everything a string, every fault named."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

IMAGE_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Columns:
    """Names of the cohort table's columns.

    Args:
        patient_id: Column that names the patient; rows of one patient never part in a split.
        image: Column with the scan's path, relative to the table's folder.
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
    """One row of a cohort table; `path` is `image` made absolute, missing cells are ''."""

    patient_id: str
    image: str
    path: Path
    label: str = ""
    session: str = ""
    site: str = ""


def read_cohort_table(table: str | Path, columns: Columns = Columns()) -> list[Scan]:
    """Read a CSV or TSV cohort table.

    Args:
        table: Path of the table; comma, semicolon and tab are recognised from the header line.
        columns: Names of the columns to read; others are ignored.

    Returns:
        One scan per row, in the table's order.

    Raises:
        ValueError: With one line per fault: missing columns, rows of the wrong length, empty
            cells, files that are missing, not NIfTI, or listed twice.
    """
    table = Path(table).expanduser()
    if not table.is_file():
        raise ValueError(f"Cohort table {str(table)!r} does not exist. Check the path in DATA=.")
    lines = _read_lines(table)
    if len(lines) < 2:
        raise ValueError(f"Cohort table {table} has no rows below its header line.")
    positions = _column_positions(table, lines[0][1], columns)
    scans, faults = [], []
    seen: dict[Path, int] = {}
    for line_number, cells in lines[1:]:
        if len(cells) != len(lines[0][1]):
            faults.append(
                f"row {line_number}: {len(cells)} cells where the header has {len(lines[0][1])}"
            )
            continue
        row = {name: cells[position].strip() for name, position in positions.items()}
        path = (table.parent / row["image"]).resolve()
        scan = Scan(path=path, **row)
        fault = _scan_fault(scan, seen.get(path))
        if fault:
            faults.append(f"row {line_number}: {fault}")
        seen.setdefault(path, line_number)
        scans.append(scan)
    if faults:
        heading = f"Cohort table {table}: {len(faults)} row{'s' * (len(faults) > 1)} to mend."
        raise ValueError("\n  ".join([heading, *faults]))
    return scans


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


def class_names(scans: Sequence[Scan], order: Sequence[str] | None = None) -> list[str]:
    """List the classes of a labelled cohort; the last one counts as positive.

    Args:
        scans: Scans that must all have a label.
        order: Wanted order of the classes; alphabetical if None.

    Raises:
        ValueError: If a label is missing, unknown to `order`, or all labels are the same.
    """
    unlabelled = sorted({scan.patient_id for scan in scans if not scan.label})
    if unlabelled:
        raise ValueError(
            f"{len(unlabelled)} patients have no label (first: {unlabelled[0]!r}). "
            "Fill the label column, or name it with --data.columns.label."
        )
    found = sorted({scan.label for scan in scans})
    if len(found) < 2:
        raise ValueError(f"All scans have the label {found[0]!r}; a classifier needs two classes.")
    if order is None:
        return found
    for label in found:
        if label not in order:
            raise ValueError(
                f"Label {label!r} is not among the classes {list(order)}"
                f"{_suggestion(label, order)}. Mend the table or --data.classes."
            )
    if absent := sorted(set(order) - set(found)):
        raise ValueError(f"No scan has the label {absent[0]!r} that --data.classes names.")
    return list(order)


def scans_by_patient(scans: Sequence[Scan]) -> dict[str, list[int]]:
    """Map each patient to the positions of that patient's scans."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, scan in enumerate(scans):
        positions[scan.patient_id].append(position)
    return dict(positions)


def _read_lines(table: Path) -> list[tuple[int, list[str]]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"Cohort table {table} is not UTF-8 text: save it as UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ValueError(f"Cohort table {table}, row {reader.line_num}: {error}.") from error


def _column_positions(table: Path, header: list[str], columns: Columns) -> dict[str, int]:
    names = [name.strip() for name in header]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Cohort table {table} has two columns named {repeated[0]!r}.")
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


def _scan_fault(scan: Scan, earlier_line: int | None) -> str | None:
    if not scan.patient_id:
        return "patient_id is empty"
    if not scan.image:
        return f"patient {scan.patient_id!r}: image is empty"
    who = f"patient {scan.patient_id!r}: image {scan.image!r}"
    if earlier_line is not None:
        return f"{who} is listed already in row {earlier_line}"
    if not scan.path.is_file():
        return f"{who} does not exist (looked for {scan.path})"
    if not scan.path.name.endswith(IMAGE_SUFFIXES):
        return f"{who} is not a NIfTI file (.nii or .nii.gz)"
    return None


def _suggestion(wanted: str, choices: Sequence[str]) -> str:
    close = get_close_matches(wanted, choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
