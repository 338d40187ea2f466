"""Check a whole cohort: its table, its scans, its labels, and that no scan has two patients."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from datamodules.checks.cohort_problems import (
    Expectations,
    Problem,
    count,
    label_problems,
    missing_names,
    twin_names,
    unread_columns,
)
from datamodules.checks.contrasts import (
    contrast_problems,
    places_by_contrast,
    repeated_images,
)
from datamodules.checks.leakage import Leak, find_leaks
from datamodules.checks.masks import check_masks, mask_problems
from datamodules.checks.scan_check import ScanCheck, ScanFacts, check_scans
from datamodules.checks.synthetic_problems import synthetic_problems
from datamodules.checks.target_problems import target_problems
from datamodules.reading.cohort_table import Columns, RowFault, Scan, read_other_columns, read_rows
from datamodules.reading.geometry import refuse_other_orientation
from datamodules.reading.nifti import Reading, read_volume, scan_hash
from files.hashes import digest
from files.whole_file import write_whole

FEW_SCANS = 5  # below this there is no cohort to stand out from
LEAK_WORDS = {
    "identical": "has the same voxels as",
    "rescaled": "has, but for the scale of its intensities, the same voxels as",
    "near-duplicate": "is nearly the same as",
}


@dataclass(frozen=True)
class CohortCheck:
    """What the check of a cohort found; `checks` has one entry for each of `images`."""

    scans: list[Scan]
    checks: list[ScanCheck]
    problems: list[Problem]

    @property
    def images(self) -> list[Scan]:
        """The rows once for each image that they have."""
        return [image for scan in self.scans for image in scan.images]

    @property
    def errors(self) -> list[Problem]:
        """What must be fixed before training."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def refuse_errors(self, table: str) -> None:
        """Raise with one line per error."""
        if self.errors:
            heading = f"Cohort table {table}: {count(len(self.errors), 'error')} to fix."
            raise ValueError("\n  ".join([heading, *map(str, self.errors)]))

    def warnings_in_brief(self) -> str:
        """One line that counts the warnings and quotes the first, '' without any."""
        warnings = [problem for problem in self.problems if problem.severity == "warning"]
        if not warnings:
            return ""
        return (
            f"{count(len(warnings), 'warning')} about the data (make check-data lists them); "
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
            "synthetic": Counter("rows" for scan in self.scans if scan.synthetic),
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
            **({"images": len(self.checks)} if len(self.checks) > len(self.scans) else {}),
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
    refuse_other_orientation(expected.reading.assume_orientation)
    scans, faults = read_rows(table, columns, expected.contrasts, masks=expected.masks)
    images = [image for scan in scans for image in scan.images]
    checks = check_scans([image.path for image in images], expected.reading, cache_dir)
    # a run quotes the first warning
    problems = [*map(_row_problem, faults), *missing_names(scans), *twin_names(scans)]
    for image, check in zip(images, checks, strict=True):
        if check.fault:
            problems.append(Problem("error", image.patient_id, image.image, *check.fault))
        problems += [Problem("warning", image.patient_id, image.image, *w) for w in check.warnings]
    truth_problems = target_problems if expected.task == "regression" else label_problems
    problems += [*truth_problems(scans, expected), *synthetic_problems(scans)]
    if not faults:
        others = list(read_other_columns(table, columns, expected.contrasts))
        problems += unread_columns(scans, others, columns, expected)
    for places in places_by_contrast(scans):
        problems += _outliers([images[at] for at in places], [checks[at] for at in places])
    problems += repeated_images(scans, expected.contrasts)
    problems += contrast_problems(scans, checks, expected.contrasts)
    if expected.masks:
        problems += mask_problems(scans, check_masks(scans, expected.reading, cache_dir))
    patients = [image.patient_id for image in images]
    for leak in _find_leaks(images, checks, patients, expected.reading, cache_dir):
        one, other = images[leak.first], images[leak.second]
        problems.append(leak_problem(leak, one, f"{other.image} of patient {other.patient_id}"))
    problems.sort(key=lambda problem: problem.severity)  # errors first
    return CohortCheck(scans, checks, problems)


def compare_cohorts(
    one: CohortCheck, other: CohortCheck, reading: Reading, cache_dir: Path
) -> list[Problem]:
    """List the scans and patients that two checked cohorts share; problems name the first's."""
    scans, checks = [*one.images, *other.images], [*one.checks, *other.checks]
    sides = ["A"] * len(one.images) + ["B"] * len(other.images)
    problems = []
    for leak in _find_leaks(scans, checks, sides, reading, cache_dir):
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
    reading: Reading,
    cache_dir: Path,
) -> list[Leak]:
    usable = [row for row, check in enumerate(checks) if check.signature is not None]
    keys = [(scan_hash(scans[row].path), sides[row]) for row in usable]
    file = cache_dir / "leaks" / f"{digest(keys, asdict(reading))}.json"
    try:
        found = [Leak(**each) for each in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        with threadpool_limits(1):  # threads would wait for each other over few numbers
            found = find_leaks(
                [signature for check in checks if (signature := check.signature) is not None],
                [sides[row] for row in usable],
                lambda place: read_volume(scans[usable[place]].path, reading).voxels,
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(json.dumps([asdict(leak) for leak in found]), file)
    return [
        Leak(usable[leak.first], usable[leak.second], leak.kind, leak.likeness) for leak in found
    ]


def _row_problem(fault: RowFault) -> Problem:
    what = f"row {fault.line}: {fault.what}"
    return Problem("error", fault.patient_id, fault.image, what, fault.fix)


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
