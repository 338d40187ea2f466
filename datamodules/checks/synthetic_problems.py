"""Synthetic rows that cannot be used: nobody's, or alone in their class."""

from collections.abc import Iterator, Sequence

from datamodules.checks.cohort_problems import Problem
from datamodules.reading.cohort_table import Scan


def synthetic_problems(scans: Sequence[Scan]) -> Iterator[Problem]:
    """Patients and classes that have synthetic rows alone.

    A row goes where its patient goes, so that nothing that was made from a test patient is trained
    on; without a real scan of that patient there is no such place.
    """
    real = [scan for scan in scans if not scan.synthetic]
    patients, labels = {scan.patient_id for scan in real}, {scan.label for scan in real}
    for patient in sorted({scan.patient_id for scan in scans} - patients):
        what = "has synthetic rows alone"
        fix = "Name the patient from whose scans they were made, or leave them out"
        yield Problem("error", patient, "", what, fix)
    for label in sorted({scan.label for scan in scans} - labels - {""}):
        what = f"class {label!r} has synthetic rows alone, so that it cannot be tested"
        yield Problem("error", "", "", what, "Add real scans, or leave these rows out")
