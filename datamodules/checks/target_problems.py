"""What can be wrong with the target column of a regression: every odd cell is named."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from datamodules.checks.cohort_problems import Expectations, Problem, count
from datamodules.checks.spelling import bound_of, is_missing, number_of
from datamodules.reading.cohort_table import Scan

THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # or a decimal comma: nobody can tell
FAR = 10.0  # robust standard deviations from the median
FEW_VALUES = 2
SHOWN = 5


def target_problems(scans: Sequence[Scan], expected: Expectations) -> Iterator[Problem]:
    """Targets that are missing, bounds, no numbers, ambiguous, in conflict, or all the same."""
    if not any(scan.target for scan in scans):
        fix = "Fill the target column, or name it with --data.columns.target"
        yield Problem("error", "", "", "no scan has a target", fix)
        return
    rows: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        rows[scan.target].append(scan)
    numbers: dict[str, float] = {}
    for cell, its in rows.items():
        if fault := _fault(cell):
            what, fix = fault
            shown = f" {cell!r}" if cell else ""
            yield Problem("error", *_who(its), f"target{shown}{_where(its)} {what}", fix)
        else:
            numbers[cell] = float(number_of(cell) or 0)
    commas = [cell for cell in numbers if "," in cell]
    if commas:
        where = [scan for cell in commas for scan in rows[cell]]
        what = f"target {commas[0]!r}{_where(where)} has a decimal comma, read as "
        fix = "Write a decimal point if another number is meant"
        yield Problem("warning", *_who(where), f"{what}{numbers[commas[0]]:g}", fix)
    if expected.labels_per == "patient":
        yield from _conflicts(scans, numbers)
    values = np.array([numbers[scan.target] for scan in scans if scan.target in numbers])
    if not len(values):
        return
    if len(set(values)) == 1:
        what = f"all scans have the target {values[0]:g}: there is nothing to predict"
        yield Problem("error", "", "", what, "Name another column with --data.columns.target")
        return
    if len(set(values)) <= FEW_VALUES:
        what = f"the target has {len(set(values))} different values alone"
        fix = "For classes, name the column with --data.columns.label and drop --data.task"
        yield Problem("warning", "", "", what, fix)
    yield from _far_values(scans, numbers, values)


def _fault(cell: str) -> tuple[str, str] | None:
    """What is wrong with a cell, and how to fix it."""
    fix = "Fill in a number, or drop the row"
    if not cell:
        return "is empty", fix
    if is_missing(cell):
        return "means that it is missing", fix
    if bound_of(cell) is not None:
        return "is a bound, not a number", "Write the number if it is known, or drop it"
    number = number_of(cell)
    if number is None:
        return "is no number", fix
    if not math.isfinite(float(number)):
        return "is too large", fix
    if THOUSANDS.fullmatch(cell):
        plain = cell.replace(",", "")
        point = cell.replace(",", ".")
        return f"may be {plain} or {point}", "Write it with a decimal point or no comma"
    return None


def _conflicts(scans: Sequence[Scan], numbers: dict[str, float]) -> Iterator[Problem]:
    """Patients whose scans have different targets, though a patient should have one."""
    targets: dict[str, dict[float, str]] = defaultdict(dict)
    for scan in scans:
        if scan.target in numbers:
            targets[scan.patient_id].setdefault(numbers[scan.target], scan.target)
    for patient, its in targets.items():
        if len(its) > 1:
            what = f"has the targets {' and '.join(map(repr, its.values()))}"
            fix = "Fix the table, or set --data.labels_per=scan if a patient's scans may differ"
            yield Problem("error", patient, "", what, fix)


def _far_values(
    scans: Sequence[Scan], numbers: dict[str, float], values: np.ndarray
) -> Iterator[Problem]:
    """Targets far from all others, as codes for a missing value are (999, -9)."""
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    for scan in scans:
        value = numbers.get(scan.target, middle)
        if spread > 0 and abs(value - middle) > FAR * spread:
            what = f"target {scan.target!r} is far from the median {middle:g}"
            fix = "Drop the row if the number stands for a missing one"
            yield Problem("warning", scan.patient_id, scan.image, what, fix)


def _who(scans: Sequence[Scan]) -> tuple[str, str]:
    """Patient and image where a cell is of one scan alone."""
    return (scans[0].patient_id, scans[0].image) if len(scans) == 1 else ("", "")


def _where(scans: Sequence[Scan]) -> str:
    if len(scans) == 1:
        return ""
    some = ", ".join(str(scan.row) for scan in scans[:SHOWN]) + ", …" * (len(scans) > SHOWN)
    return f" of {count(len(scans), 'row')} ({some})"
