"""A cohort: the rows of its table, the plan of its preprocessing, its cached volumes."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.checks.cohort_check import CohortCheck, check_cohort
from datamodules.checks.cohort_problems import Expectations
from datamodules.checks.leakage import Signature
from datamodules.checks.scan_check import ScanCheck, ScanFacts, check_scans
from datamodules.checks.seen_scans import SeenScans, describe_scans, find_seen
from datamodules.fingerprint import (
    Fingerprint,
    cohort_fingerprint,
    default_budget,
    plan_preprocessing,
    unknown_spacings,
    voxel_size_mm,
)
from datamodules.preprocessing import Preprocessing, Triplet
from datamodules.reading.cohort_table import Columns, Scan, read_cohort_table
from datamodules.reading.nifti import scan_hash
from datamodules.volumes import Intensity, Volumes, fit_intensity, load_volumes
from files.hashes import digest

MUCH_CLIPPED = 0.02  # share of a scan's foreground


class Cohort:
    """What both datamodules know of their scans; reads nothing before it is asked.

    Args:
        table: Path of the cohort table.
        columns: Names of its columns.
        preprocessing: What is done once to every scan; `plan` completes it.
        cache_dir: Folder for preprocessed volumes; may be deleted at any time.
    """

    def __init__(
        self, table: str | None, columns: Columns, preprocessing: Preprocessing, cache_dir: str
    ) -> None:
        if table is None:
            raise ValueError("No cohort table given. Give DATA=path/to/table.csv.")
        self.table = table
        self.columns = columns
        self.preprocessing = preprocessing
        self.cache_dir = Path(cache_dir)

    @cached_property
    def scans(self) -> list[Scan]:
        """The rows of the table."""
        return read_cohort_table(self.table, self.columns)

    @property
    def patients(self) -> list[str]:
        """The patient of each scan."""
        return [scan.patient_id for scan in self.scans]

    @property
    def labels(self) -> list[str]:
        """The class of each scan, '' where it is not known."""
        return [scan.label for scan in self.scans]

    def check(self, expected: Expectations) -> CohortCheck:
        """Check the table and every scan; what was checked before is not read again.

        Raises:
            ValueError: With one line per error.
        """
        expected = replace(expected, reading=self.preprocessing.reading)
        found = check_cohort(self.table, self.columns, expected, self.cache_dir)
        found.refuse_errors(self.table)
        self.scans, self.scan_checks = found.scans, found.checks
        return found

    @cached_property
    def scan_checks(self) -> list[ScanCheck]:
        """What the check of each scan found."""
        paths = [scan.path for scan in self.scans]
        return check_scans(paths, self.preprocessing.reading, self.cache_dir)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Geometry of all scans.

        Raises:
            ValueError: With one line per scan that cannot be used.
        """
        facts: list[ScanFacts] = []
        faults = []
        for scan, check in zip(self.scans, self.scan_checks, strict=True):
            if check.facts is not None:
                facts.append(check.facts)
            elif check.fault is not None:
                faults.append(f"{scan.path} {'. '.join(check.fault)}.")
        if faults:
            raise ValueError("\n  ".join(["Scans that cannot be used:", *faults]))
        return cohort_fingerprint(facts)

    def describe_scans(self, patients: set[str]) -> dict[str, Tensor]:
        """By what the scans of these patients are recognised, also altered copies of them."""
        return describe_scans(self._signatures(self.rows_of(patients)))

    def refuse_seen_scans(
        self, seen: Sequence[SeenScans], patients: set[str], checkpoint_path: str
    ) -> None:
        """Raise if a checkpoint has seen a scan of these patients, under whatever name.

        Args:
            seen: What the checkpoint keeps of the scans of each training that led to it.
            patients: Patients whose scans it must not have seen.
            checkpoint_path: Where it is.
        """
        if met := self.patients_seen_in(seen, patients):
            raise ValueError(
                f"The encoder {checkpoint_path} was pretrained on the very scans of {len(met)} "
                f"patients of this fold's validation or test part, or on altered copies of them, "
                f"under other names: {', '.join(met[:5])}{', …' * (len(met) > 5)}. Give one person "
                "one patient_id in both tables and pretrain fold by fold (SPLITS=), or drop these "
                "scans."
            )

    def patients_seen_in(self, seen: Sequence[SeenScans], patients: set[str]) -> list[str]:
        """Name those of these patients who have a scan, perhaps altered, among the seen ones."""
        rows = self.rows_of(patients)
        signatures = self._signatures(rows)
        positions = {position for scans in seen for position in find_seen(scans, signatures)}
        return sorted({self.scans[rows[position]].patient_id for position in positions})

    def _signatures(self, rows: Sequence[int]) -> list[Signature]:
        signatures = [self.scan_checks[row].signature for row in rows]
        return [signature for signature in signatures if signature is not None]

    def plan(self, voxel_budget: int | None = None) -> str:
        """Choose what the preprocessing leaves open, and tell in words what is done to a scan.

        Args:
            voxel_budget: Most voxels of a scan where the preprocessing has no budget.
        """
        if self.preprocessing.spatial_shape is not None:
            why = unknown_spacings(self.fingerprint, self.preprocessing)
        else:
            budget = self.preprocessing.voxel_budget or voxel_budget or default_budget()
            wanted = replace(self.preprocessing, voxel_budget=budget)
            self.preprocessing, why = plan_preprocessing(self.fingerprint, wanted)
        return f"{self.preprocessing.describe()} {why}".rstrip()

    def much_clipped(self) -> str:
        """Count the scans whose window clips much of their foreground, '' if there is none."""
        shares = self.volumes.clipped
        much = shares > MUCH_CLIPPED
        if not much.any():
            return ""
        return (
            f"The window clips more than {100 * MUCH_CLIPPED:g} % of the foreground of "
            f"{much.sum()} of {len(shares)} scans (median of these: "
            f"{100 * np.median(shares[much]):.0f} %). Set "
            "--data.preprocessing.window_over=foreground, or widen "
            "--data.preprocessing.window_percentiles."
        )

    @cached_property
    def voxel_mm(self) -> Triplet | None:
        """Voxel size that a network sees along R, A, S; the median, None where it is unknown."""
        settings = self.preprocessing
        if settings.spacing_mm is not None and settings.fit != "resize":
            return settings.spacing_mm
        return voxel_size_mm(self.fingerprint, settings)

    @property
    def prepared(self) -> dict[str, Any]:
        """How the scans are prepared: the settings, and the voxel size that comes of them."""
        return asdict(self.preprocessing) | {"voxel_mm": self.voxel_mm}

    def content_hash(self) -> str:
        """Hash the table's rows and the content of every scan."""
        return digest(
            [(scan.patient_id, scan.image, scan.label, scan_hash(scan.path)) for scan in self.scans]
        )

    @cached_property
    def volumes(self) -> Volumes:
        """The preprocessed scans; the first access builds what the cache lacks."""
        if self.preprocessing.spatial_shape is None:
            self.plan()
        return load_volumes(self.scans, self.preprocessing, self.cache_dir)

    def fit_intensity(self, rows: np.ndarray) -> Intensity:
        """Fit the intensity scale on these rows alone, which must be training scans."""
        return fit_intensity(self.volumes, rows, self.preprocessing.divide_by)

    def refuse_other_preprocessing(self, made_with: dict[str, Any]) -> None:
        """Raise if a checkpoint was trained on scans that were preprocessed in another way."""
        settings = asdict(Preprocessing.made_with(made_with))
        for name, here in asdict(self.preprocessing).items():
            there = settings[name]
            if name != "voxel_budget" and here != there:
                raise ValueError(
                    f"The checkpoint was trained with preprocessing.{name} {there}, not "
                    f"{here}. Set --data.preprocessing.{name} to what it was trained with."
                )

    def rows_of(self, patients: set[str]) -> list[int]:
        """Positions of these patients' scans."""
        return [row for row, scan in enumerate(self.scans) if scan.patient_id in patients]
