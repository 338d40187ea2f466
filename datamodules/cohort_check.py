"""Check a whole cohort: its table, its scans, its labels, and that no scan has two patients."""

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.cohort_table import Columns, RowFault, Scan, conflicting_labels, read_rows
from datamodules.leakage import Leak, find_leaks
from datamodules.nifti import read_volume, refuse_other_orientation
from datamodules.nifti_bytes import printable
from datamodules.row_cache import digest
from datamodules.scan_check import ScanCheck, ScanFacts, check_scans, file_hash

Severity = Literal["error", "warning"]
FEW_SCANS = 5  # below this there is no cohort to stand out from
LEAK_WORDS = {
    "identical": "has the same voxels as",
    "rescaled": "has, but for the scale of its intensities, the same voxels as",
    "near-duplicate": "is nearly the same as",
}


@dataclass(frozen=True)
class Problem:
    """One thing to mend; patient and image are '' where the whole table is meant."""

    severity: Severity
    patient_id: str
    image: str
    what: str
    mend: str

    def __str__(self) -> str:
        """One line, whatever the table holds."""
        cells = (self.severity, self.patient_id, self.image, f"{self.what}. {self.mend}.")
        return "  ".join(printable(cell) for cell in cells if cell)


@dataclass(frozen=True)
class Expectations:
    """What a table is used for.

    Args:
        labelled: Whether labels are needed; None if they are checked where there are any.
        labels_per: Whether a patient's scans share their label.
        classes: The classes, if they are known.
        num_folds: Folds that every class must have patients for; None if not known.
        assume_orientation: Where the axes point to if a header does not say.
    """

    labelled: bool | None = None
    labels_per: Literal["patient", "scan"] = "patient"
    classes: Sequence[str] | None = None
    num_folds: int | None = None
    assume_orientation: str | None = None


@dataclass(frozen=True)
class CohortCheck:
    """What the check of a cohort found; `checks` has one entry per scan."""

    scans: list[Scan]
    checks: list[ScanCheck]
    problems: list[Problem]

    @property
    def errors(self) -> list[Problem]:
        """What must be mended before training."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def refuse_errors(self, table: str) -> None:
        """Raise with one line per error."""
        if self.errors:
            heading = f"Cohort table {table}: {_count(len(self.errors), 'error')} to mend."
            raise ValueError("\n  ".join([heading, *map(str, self.errors)]))

    def warnings_in_brief(self) -> str:
        """One line that counts the warnings and quotes the first, '' without any."""
        warnings = [problem for problem in self.problems if problem.severity == "warning"]
        if not warnings:
            return ""
        return (
            f"{_count(len(warnings), 'warning')} about the data (make check-data lists them); "
            f"the first: {warnings[0]}"
        )

    def summary(self) -> dict[str, Any]:
        """Count and describe what the cohort holds."""
        facts = [check.facts for check in self.checks if check.facts is not None]
        shapes = np.array([each.shape for each in facts]).reshape(-1, 3)
        spacings = np.array([each.spacing_mm for each in facts]).reshape(-1, 3)
        levels = np.array([each.percentiles for each in facts]).reshape(-1, 5)
        counts = {
            "classes": Counter(scan.label for scan in self.scans if scan.label),
            "sessions": Counter(scan.session for scan in self.scans if scan.session),
            "sites": Counter(scan.site for scan in self.scans if scan.site),
            "orientations": Counter(each.orientation for each in facts),
            "types": Counter(each.dtype for each in facts),
        }
        ranges = {
            "shape": shapes,
            "spacing_mm": spacings,
            "intensities (0, 1, 50, 99, 100 %)": levels,
        }
        return {
            "scans": len(self.scans),
            "usable": len(facts),
            "patients": len({scan.patient_id for scan in self.scans}),
            **{name: dict(sorted(count.items())) for name, count in counts.items()},
            **{
                name: {
                    how: [float(f"{x:.5g}") for x in function(values, axis=0)]
                    for how, function in (("min", np.min), ("median", np.median), ("max", np.max))
                }
                for name, values in ranges.items()
                if len(values)
            },
        }


def check_cohort(
    table: str | Path, columns: Columns, expected: Expectations, cache_dir: Path
) -> CohortCheck:
    """Read everything once and list what is wrong; what was read before is not read again.

    Args:
        table: Path of the cohort table.
        columns: Names of its columns.
        expected: What the table is used for.
        cache_dir: Folder of the cache; may be deleted at any time.

    Raises:
        ValueError: If the table itself cannot be read.
    """
    refuse_other_orientation(expected.assume_orientation)
    scans, faults = read_rows(table, columns)
    checks = check_scans([scan.path for scan in scans], expected.assume_orientation, cache_dir)
    problems = [_row_problem(fault) for fault in faults]
    for scan, check in zip(scans, checks, strict=True):
        if check.fault:
            problems.append(Problem("error", scan.patient_id, scan.image, *check.fault))
        problems += [Problem("warning", scan.patient_id, scan.image, *w) for w in check.warnings]
    problems += _label_problems(scans, expected)
    problems += _twin_names(scans)
    problems += _outliers(scans, checks)
    patients = [scan.patient_id for scan in scans]
    for leak in _find_leaks(scans, checks, patients, expected.assume_orientation, cache_dir):
        one, other = scans[leak.first], scans[leak.second]
        problems.append(leak_problem(leak, one, f"{other.image} of patient {other.patient_id}"))
    problems.sort(key=lambda problem: problem.severity)  # errors first
    return CohortCheck(scans, checks, problems)


def compare_cohorts(
    one: CohortCheck, other: CohortCheck, assume_orientation: str | None, cache_dir: Path
) -> list[Problem]:
    """List the scans and patients that two checked cohorts share; problems name the first's."""
    scans, checks = [*one.scans, *other.scans], [*one.checks, *other.checks]
    sides = ["A"] * len(one.scans) + ["B"] * len(other.scans)
    problems = []
    for leak in _find_leaks(scans, checks, sides, assume_orientation, cache_dir):
        a, b = scans[leak.first], scans[leak.second]
        problems.append(leak_problem(leak, a, f"{b.image} of patient {b.patient_id} in B"))
    shared = {scan.patient_id for scan in one.scans} & {scan.patient_id for scan in other.scans}
    problems += [
        Problem("warning", patient, "", "is in both cohorts", "Rename it if it is another person")
        for patient in sorted(shared)
    ]
    return sorted(problems, key=lambda problem: problem.severity)


def leak_problem(leak: Leak, scan: Scan, other: str) -> Problem:
    """Put a leak into words."""
    near = f" (likeness {leak.likeness:.2f})" if leak.kind == "near-duplicate" else ""
    return Problem(
        "error" if leak.kind == "identical" else "warning",
        scan.patient_id,
        scan.image,
        f"{LEAK_WORDS[leak.kind]} {other}{near}",
        "Drop one of them, or give both the same patient_id",
    )


def _find_leaks(
    scans: Sequence[Scan],
    checks: Sequence[ScanCheck],
    sides: Sequence[str],
    assume_orientation: str | None,
    cache_dir: Path,
) -> list[Leak]:
    usable = [row for row, check in enumerate(checks) if check.signature is not None]
    keys = [(file_hash(scans[row].path), sides[row]) for row in usable]
    file = cache_dir / "leaks" / f"{digest(keys, assume_orientation)}.json"
    try:
        found = [Leak(**each) for each in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        found = find_leaks(
            [signature for check in checks if (signature := check.signature) is not None],
            [sides[row] for row in usable],
            lambda position: read_volume(scans[usable[position]].path, assume_orientation).voxels,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}.tmp")
        unfinished.write_text(json.dumps([asdict(leak) for leak in found]))
        os.replace(unfinished, file)
    return [
        Leak(usable[leak.first], usable[leak.second], leak.kind, leak.likeness) for leak in found
    ]


def _row_problem(fault: RowFault) -> Problem:
    what = f"row {fault.line}: {fault.what}"
    return Problem("error", fault.patient_id, fault.image, what, fault.mend)


def _label_problems(scans: Sequence[Scan], expected: Expectations) -> Iterator[Problem]:
    labelled = expected.labelled
    if labelled is None:
        labelled = any(scan.label for scan in scans)
    if not labelled:
        return
    for scan in scans:
        if not scan.label:
            mend = "Fill the label column, or name it with --data.columns.label"
            yield Problem("error", scan.patient_id, scan.image, "label is empty", mend)
    if expected.labels_per == "patient":
        for patient, labels in conflicting_labels(scans).items():
            what = f"has the labels {' and '.join(map(repr, labels))}"
            mend = "Mend the table, or set --data.labels_per=scan if a patient's scans may differ"
            yield Problem("error", patient, "", what, mend)
    members: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        if scan.label:
            members[scan.label].add(scan.patient_id)
    sizes = {label: len(patients) for label, patients in members.items()}
    if expected.classes is not None:
        for label in sorted(set(sizes) - set(expected.classes)):
            close = [name for name in expected.classes if _is_near(label, name)]
            hint = f"; did you mean {close[0]!r}?" if close else ""
            what = f"label {label!r} is not among the classes {list(expected.classes)}{hint}"
            yield Problem("error", "", "", what, "Mend the table or --data.classes")
    else:
        for label, meant in _misspelt(sizes):
            what = f"label {label!r} ({_count(sizes[label], 'patient')}) looks like {meant!r}"
            mend = f"Write {meant!r}, or list all classes in --data.classes"
            yield Problem("error", "", "", what, mend)
    told = expected.num_folds is not None
    num_folds = expected.num_folds or 5
    for label, size in sorted(sizes.items()):
        if expected.labelled is None and size < num_folds:
            what = f"class {label!r} has {_count(size, 'patient')}, too few for {num_folds} folds"
            mend = f"Lower --data.splits.num_folds to {max(size, 2)} or merge classes"
            yield Problem("error" if told else "warning", "", "", what, mend)


def _misspelt(sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs of a label and the commoner one that was probably meant."""
    for label in sorted(sizes, key=lambda name: (sizes[name], name)):
        for other in sorted(sizes, key=lambda name: (-sizes[name], name)):
            if (sizes[label], label) >= (sizes[other], other):
                continue
            if _plain(label) == _plain(other) or (
                sizes[label] <= max(1, sizes[other] // 20)
                and 2 * sizes[label] <= sizes[other]
                and _is_near(label, other)
            ):
                yield label, other
                break


def _is_near(label: str, other: str) -> bool:
    """Whether one looks like a slip of the other: 'helthy' and 'healthy', not 'unhealthy'."""
    one, two = _plain(label), _plain(other)
    if one == two:
        return True
    if re.findall(r"\d", one) != re.findall(r"\d", two) or one.endswith(two) or two.endswith(one):
        return False
    return SequenceMatcher(None, one, two).ratio() >= 0.85


def _twin_names(scans: Sequence[Scan]) -> Iterator[Problem]:
    """Patients whose names look alike: they may be one person on two sides of a split."""
    alike: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        joined = re.sub(r"[\s_-]+", "-", _folded(scan.patient_id))
        alike[re.sub(r"(?<!\d)0+(?=\d)", "", joined)].add(scan.patient_id)
    for names in alike.values():
        first, *others = sorted(names)
        for name in others:
            same = _visible(name) == _visible(first)
            what = f"may be patient {first!r} by another spelling"
            mend = "Write both alike if they are one person, else rename one"
            yield Problem("error" if same else "warning", name, "", what, mend)


def _visible(name: str) -> str:
    """The name as it looks: invisible characters left out, letters and accents joined."""
    kept = "".join(letter for letter in name if unicodedata.category(letter) not in ("Cf", "Cc"))
    return " ".join(unicodedata.normalize("NFC", kept).split())


def _folded(name: str) -> str:
    """The name without differences of case and width."""
    return unicodedata.normalize("NFKC", _visible(name)).casefold()


def _plain(name: str) -> str:
    """The folded name without separators."""
    return re.sub(r"[\s_-]+", "", _folded(name))


def _outliers(scans: Sequence[Scan], checks: Sequence[ScanCheck]) -> Iterator[Problem]:
    """Scans that stand out from the cohort in voxel size, shape or intensities."""
    rows = [row for row, check in enumerate(checks) if check.facts is not None]
    facts = [facts for check in checks if (facts := check.facts) is not None]
    if len(rows) < FEW_SCANS:
        return
    order = [np.argsort(["RLAPSI".index(letter) for letter in each.orientation]) for each in facts]
    looks: tuple[tuple[str, list[Any], float], ...] = (
        (
            "voxel size in mm",
            [np.take(f.spacing_mm, o) for f, o in zip(facts, order, strict=True)],
            2,
        ),
        ("shape", [np.take(f.shape, o) for f, o in zip(facts, order, strict=True)], 2),
        ("intensity range", [[_intensity_range(f)] for f in facts], 10),
    )
    for name, values, factor in looks:
        logs = np.log(np.array(values, dtype=np.float64))
        middle = np.median(logs, axis=0)
        spread = 1.4826 * np.median(np.abs(logs - middle), axis=0)
        far = (np.abs(logs - middle) > np.maximum(np.log(factor) + 1e-6, 5 * spread)).any(axis=1)
        usual = " × ".join(f"{size:.4g}" for size in np.exp(middle))
        if far.sum() > max(1, len(rows) // 10):
            what = f"{far.sum()} of {len(rows)} scans are far from the median {name}, {usual}"
            yield Problem("warning", "", "", what, "See that they can be compared")
            continue
        for position in np.flatnonzero(far):
            scan = scans[rows[position]]
            sizes = " × ".join(f"{size:.4g}" for size in values[position])
            what = f"has the {name} {sizes}, the cohort {usual} (median)"
            yield Problem("warning", scan.patient_id, scan.image, what, "See that it belongs here")


def _intensity_range(facts: ScanFacts) -> float:
    """From the 1st to the 99th percentile, or all of it where these are equal."""
    lowest, low, _, high, highest = facts.percentiles
    return high - low or highest - lowest


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
