"""What can be wrong with the names and labels of a cohort table, and how a problem is told."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from typing import Literal

from datamodules.checks.spelling import (
    are_one,
    bound_of,
    identity,
    is_missing,
    is_near,
    number_of,
    plain,
    visible,
)
from datamodules.reading.cohort_table import Columns, Scan, conflicting_labels
from datamodules.reading.nifti import Reading
from datamodules.reading.nifti_bytes import printable

SPLIT_NAMES = ("split", "splits", "fold", "folds", "partition", "subset", "traintest")
MANY_NUMBERS = 5  # different labels that are all numbers; fewer are taken for codes of classes
SURELY_MANY = 20
Severity = Literal["error", "warning"]
Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Problem:
    """One thing to fix; patient and image are '' where the whole table is meant."""

    severity: Severity
    patient_id: str
    image: str
    what: str
    fix: str

    def __str__(self) -> str:
        """One line, whatever the table holds."""
        what = self.what if self.what.endswith("?") else f"{self.what}."
        cells = (self.severity, self.patient_id, self.image, f"{what} {self.fix}.")
        return "  ".join(printable(cell) for cell in cells if cell)


@dataclass(frozen=True)
class Expectations:
    """What a table is used for.

    Args:
        labelled: Whether labels are needed; None if they are checked where there are any.
        labels_per: Whether a patient's scans share their label.
        classes: The classes, if they are known.
        num_folds: Folds that every class must have patients for; None if not known.
        reading: What is done where a scan's file leaves something open.
        contrasts: Names of the contrasts, where a row has several images.
        masks: Whether each scan needs a mask.
        covariates: Columns that a model sees next to the images.
        task: Whether a class or a number is predicted.
    """

    labelled: bool | None = None
    labels_per: Literal["patient", "scan"] = "patient"
    classes: Sequence[str] | None = None
    num_folds: int | None = None
    reading: Reading = field(default_factory=Reading)
    contrasts: Sequence[str] = ()
    masks: bool = False
    covariates: Sequence[str] = ()
    task: Task = "classification"


def label_problems(scans: Sequence[Scan], expected: Expectations) -> Iterator[Problem]:
    """Labels that are missing, misspelt, unknown, in conflict, or too few."""
    labelled = expected.labelled
    if labelled is None:
        labelled = any(scan.label for scan in scans)
    numbers = "To predict the numbers of the target column, set --data.task=regression"
    if any(scan.target for scan in scans) and (any(scan.label for scan in scans) or not labelled):
        yield Problem("warning", "", "", "the target column is not read", numbers)
    if not labelled:
        return
    fix = "Fill the label column, or name it with --data.columns.label"
    if not any(scan.label for scan in scans):
        if any(scan.target for scan in scans):
            fix = numbers
        yield Problem("error", "", "", "no scan has a label", fix)
        return
    if expected.classes is None and (num_values := _num_quantities(scans)):
        what = f"the labels are numbers with {num_values} different values, no classes"
        fix = (
            "To predict the number, set --data.task=regression and name the column with "
            "--data.columns.target; if they are classes, list them in --data.classes"
        )
        yield Problem("error", "", "", what, fix)
        return
    for scan in scans:
        if not scan.label:
            fix = "Fill it in, or keep this row in a table for make pretrain alone"
            yield Problem("error", scan.patient_id, scan.image, "label is empty", fix)
    rows: dict[str, list[int]] = defaultdict(list)
    for scan in scans:
        rows[scan.label].append(scan.row)
    missing = {label for label in rows if is_missing(label)} - set(expected.classes or ())
    for label in sorted(missing):
        what = f"label {label!r} of {_rows(rows[label])} means that it is missing"
        fix = f"Fill in or empty these cells, or name {label!r} in --data.classes if it is a class"
        yield Problem("error", "", "", what, fix)
    scans = [scan for scan in scans if scan.label and scan.label not in missing]
    if expected.labels_per == "patient":
        for patient, labels in conflicting_labels(scans).items():
            what = f"has the labels {' and '.join(map(repr, labels))}"
            fix = "Fix the table, or set --data.labels_per=scan if a patient's scans may differ"
            yield Problem("error", patient, "", what, fix)
    members: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        members[scan.label].add(scan.patient_id)
    sizes = {label: len(patients) for label, patients in members.items()}
    if expected.classes is not None:
        for label in sorted(set(sizes) - set(expected.classes)):
            close = [name for name in expected.classes if are_one(label, name)]
            hint = f"; did you mean {close[0]!r}?" if close else ""
            what = f"label {label!r} is not among the classes {list(expected.classes)}{hint}"
            yield Problem("error", "", "", what, "Fix the table or --data.classes")
    else:
        yield from _numbers_in_two_spellings(scans)
        for label, meant in _misspelt(sizes):
            what = f"label {label!r} ({count(sizes[label], 'patient')}) looks like {meant!r}"
            fix = f"Write {meant!r}, or list all classes in --data.classes"
            yield Problem("error", "", "", what, fix)
    if expected.labelled is None and len(sizes) == 1:
        what = f"all scans have the label {next(iter(sizes))!r}; a classifier needs two classes"
        yield Problem("warning", "", "", what, "Add scans of the other class")
    told = expected.num_folds is not None
    num_folds = expected.num_folds or 5
    for label, size in sorted(sizes.items()):
        if expected.labelled is None and size < num_folds:
            what = f"class {label!r} has {count(size, 'patient')}, too few for {num_folds} folds"
            fix = f"Lower --data.splits.num_folds to {max(size, 2)} or merge classes"
            yield Problem("error" if told else "warning", "", "", what, fix)


def class_names(
    scans: Sequence[Scan],
    order: Sequence[str] | None = None,
    labels_per: Literal["patient", "scan"] = "patient",
) -> list[str]:
    """List the classes of a labelled cohort; the last of two counts as positive.

    Args:
        scans: Scans that must all have a label.
        order: Wanted order of the classes; alphabetical if None.
        labels_per: Whether a patient's scans share their label.

    Raises:
        ValueError: With one line per fault of the labels, or if there are fewer than two classes.
    """
    expected = Expectations(labelled=True, labels_per=labels_per, classes=order)
    problems = list(label_problems(scans, expected))
    if problems:
        heading = f"{count(len(problems), 'error')} in the labels."
        raise ValueError("\n  ".join([heading, *map(str, problems)]))
    found = sorted({scan.label for scan in scans})
    if len(found) < 2:
        raise ValueError(f"All scans have the label {found[0]!r}; a classifier needs two classes.")
    if absent := sorted(set(order or ()) - set(found)):
        raise ValueError(f"No scan has the label {absent[0]!r} that --data.classes names.")
    return list(order or found)


def _num_quantities(scans: Sequence[Scan]) -> int:
    """Count the values of labels that are a quantity; 0 if they are classes.

    They are a quantity if they are numbers, but for a few cells that are missing or bounds, and if
    they have too many values for classes, or mostly one patient for each value.
    """
    members: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        if scan.label and not is_missing(scan.label) and bound_of(scan.label) is None:
            members[scan.label].add(scan.patient_id)
    if any(number_of(label) is None for label in members) or len(members) <= MANY_NUMBERS:
        return 0
    singles = sum(len(patients) == 1 for patients in members.values())
    many = len(members) > SURELY_MANY or singles > len(members) / 2
    return len(members) if many else 0


def _numbers_in_two_spellings(scans: Sequence[Scan]) -> Iterator[Problem]:
    """Labels that are equal numbers, such as 0 and 0.0: they would be classes of their own."""
    spellings: dict[Decimal, dict[str, int]] = defaultdict(dict)
    for scan in scans:
        if (number := number_of(scan.label)) is not None:
            spellings[number].setdefault(scan.label, scan.row)
    for rows in spellings.values():
        if len(rows) > 1:
            labels = " and ".join(f"{label!r} (row {row})" for label, row in rows.items())
            fix = "Write them alike, or list all classes in --data.classes"
            yield Problem("error", "", "", f"labels {labels} are one number", fix)


def _misspelt(sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs of a label and the commoner one that was probably meant."""
    for label in sorted(sizes, key=lambda name: (sizes[name], name)):
        for other in sorted(sizes, key=lambda name: (-sizes[name], name)):
            if (sizes[label], label) >= (sizes[other], other):
                continue
            if plain(label) == plain(other) or (
                sizes[label] <= max(1, sizes[other] // 20)
                and 2 * sizes[label] <= sizes[other]
                and is_near(label, other)
            ):
                yield label, other
                break


def twin_names(scans: Sequence[Scan]) -> Iterator[Problem]:
    """Patients whose names look alike: they may be one person on two sides of a split."""
    alike: dict[str | Decimal, set[str]] = defaultdict(set)
    for scan in scans:
        alike[identity(scan.patient_id)].add(scan.patient_id)
    for names in alike.values():
        first, *others = sorted(names)
        for name in others:
            same = visible(name) == visible(first)
            what = f"may be patient {first!r} by another spelling"
            fix = "Write both alike if they are one person, else rename one"
            yield Problem("error" if same else "warning", name, "", what, fix)


def missing_names(scans: Sequence[Scan]) -> Iterator[Problem]:
    """Patients whose name means that it is missing: all of their rows count as one patient."""
    rows: dict[str, list[int]] = defaultdict(list)
    for scan in scans:
        if is_missing(scan.patient_id):
            rows[scan.patient_id].append(scan.row)
    for name, lines in rows.items():
        what = (
            f"patient_id {name!r} of {_rows(lines)} may mean that it is missing, but counts as one "
            "patient"
        )
        yield Problem("warning", "", "", what, "Name the patient of each row, or rename this one")


def unread_columns(
    scans: Sequence[Scan], others: Sequence[str], columns: Columns, expected: Expectations
) -> Iterator[Problem]:
    """Columns that are not read though their name is nearly that of one that is, or a split's."""
    truth = "target" if expected.task == "regression" else "label"
    for name in (truth, "session", "site"):
        wanted = getattr(columns, name)
        close = get_close_matches(wanted, map(plain, others), n=1, cutoff=0.76)
        close = [other for other in others if plain(other) in close]
        if close and not any(getattr(scan, name) for scan in scans):
            what = f"column {close[0]!r} is not read; did you mean {wanted!r}?"
            fix = f"Rename it, or set --data.columns.{name}={close[0]}"
            needed = name == truth and expected.labelled
            yield Problem("error" if needed else "warning", "", "", what, fix)
    if splits := [other for other in others if plain(other) in SPLIT_NAMES]:
        what = f"column {splits[0]!r} is not read: patients are divided by --data.splits"
        yield Problem("warning", "", "", what, "To use your own division, give SPLITS=splits.csv")


def _rows(lines: Sequence[int]) -> str:
    """'2 rows (3, 5)'; of many the first five."""
    some = ", ".join(map(str, lines[:5])) + ", …" * (len(lines) > 5)
    return f"{count(len(lines), 'row')} ({some})"


def count(number: int, thing: str) -> str:
    """'1 scan', '2 scans'."""
    return f"{number} {thing}{'s' * (number != 1)}"
