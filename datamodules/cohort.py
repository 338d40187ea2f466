"""A cohort: the rows of its table, the plan of its preprocessing, its cached volumes."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.checks.cohort_check import CohortCheck, check_cohort
from datamodules.checks.cohort_problems import Expectations, Task
from datamodules.checks.leakage import Signature
from datamodules.checks.masks import check_masks
from datamodules.checks.scan_check import ScanCheck, ScanFacts, check_scans
from datamodules.checks.seen_scans import SeenScans, describe_scans, find_seen
from datamodules.covariates import Coded, Coding, Covariates, read_covariates
from datamodules.fingerprint import (
    Fingerprint,
    cohort_fingerprint,
    cropped_shapes,
    default_budget,
    plan_preprocessing,
    unknown_spacings,
    voxel_size_mm,
)
from datamodules.preprocessing import Preprocessing, Triplet
from datamodules.reading.cohort_table import Columns, Scan, read_cohort_table, read_other_columns
from datamodules.reading.nifti import scan_hash
from datamodules.target import target_values
from datamodules.volumes import Intensity, Volumes, fit_intensity, load_volumes
from files.hashes import digest


class Cohort:
    """What both datamodules know of their scans; reads nothing before it is asked.

    Args:
        table: Path of the cohort table.
        columns: Names of its columns.
        preprocessing: What is done once to every scan; `plan` completes it.
        cache_dir: Folder for preprocessed volumes; may be deleted at any time.
        contrasts: Names of the contrasts, where a row has several images.
        covariates: Columns that a model sees next to the images, or how a training coded them.
        task: Whether the class or the target of a scan is its label.
    """

    def __init__(
        self,
        table: str | None,
        columns: Columns,
        preprocessing: Preprocessing,
        cache_dir: str,
        contrasts: Sequence[str] = (),
        covariates: Sequence[Coded] | Sequence[str] = (),
        task: Task = "classification",
    ) -> None:
        if table is None:
            raise ValueError("No cohort table given. Give DATA=path/to/table.csv.")
        self.table = table
        self.columns = columns
        self.preprocessing = preprocessing
        self.cache_dir = Path(cache_dir)
        self.contrasts = list(contrasts)
        self.covariate_columns = covariates
        self.task = task

    @cached_property
    def scans(self) -> list[Scan]:
        """The rows of the table."""
        masks = self.preprocessing.uses_mask
        return read_cohort_table(self.table, self.columns, self.contrasts, masks=masks)

    @cached_property
    def covariates(self) -> Covariates:
        """What is known of the patients next to the images, one row per scan."""
        cells = read_other_columns(self.table, self.columns, self.contrasts)
        return read_covariates(cells, self.covariate_columns, self.table, len(self.scans))

    @property
    def num_channels(self) -> int:
        """Channels of a volume: the contrasts, and perhaps the mask."""
        return max(len(self.contrasts), 1) + self.preprocessing.mask_channel

    @property
    def incomplete(self) -> list[Scan]:
        """The scans that lack a contrast."""
        return [scan for scan in self.scans if None in scan.paths]

    @property
    def paths(self) -> list[str]:
        """Where the table and the scans are."""
        return [str(self.table), *(str(scan.path) for scan in self.scans)]

    @property
    def patients(self) -> list[str]:
        """The patient of each scan."""
        return [scan.patient_id for scan in self.scans]

    @property
    def real(self) -> np.ndarray:
        """Positions of the real scans, which are not synthetic."""
        return np.flatnonzero([not scan.synthetic for scan in self.scans])

    def of_real(self, values: Sequence[str]) -> list[str]:
        """Of values for each scan those of the real ones."""
        return [values[row] for row in self.real]

    @property
    def labels(self) -> list[str]:
        """The class of each scan, or the cell of its target; '' where it is not known."""
        if self.task == "regression":
            return [scan.target for scan in self.scans]
        return [scan.label for scan in self.scans]

    @property
    def targets(self) -> np.ndarray:
        """The number that a regression predicts for each scan, (N,)."""
        return target_values(self.labels)

    def check(self, expected: Expectations) -> CohortCheck:
        """Check the table and every scan; what was checked before is not read again.

        Raises:
            ValueError: With one line per error.
        """
        expected = replace(
            expected,
            reading=self.preprocessing.reading,
            contrasts=self.contrasts,
            masks=self.preprocessing.uses_mask,
        )
        found = check_cohort(self.table, self.columns, expected, self.cache_dir)
        found.refuse_errors(self.table)
        self.scans, self.scan_checks = found.scans, found.checks
        return found

    @cached_property
    def scan_checks(self) -> list[ScanCheck]:
        """What the check of each image found, in the order of `images`."""
        paths = [image.path for _, image in self.images]
        return check_scans(paths, self.preprocessing.reading, self.cache_dir)

    @property
    def images(self) -> list[tuple[int, Scan]]:
        """Each image that a scan has, with the position of the scan."""
        return [(row, image) for row, scan in enumerate(self.scans) for image in scan.images]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Geometry of all scans.

        Raises:
            ValueError: With one line per scan that cannot be used.
        """
        facts: dict[int, ScanFacts] = {}
        faults = []
        for (row, image), check in zip(self.images, self.scan_checks, strict=True):
            if check.facts is not None:
                facts.setdefault(row, check.facts)  # of the first contrast, whose grid is taken
            elif check.fault is not None:
                faults.append(f"{image.path} {'. '.join(check.fault)}.")
        if faults:
            raise ValueError("\n  ".join(["Scans that cannot be used:", *faults]))
        found = cohort_fingerprint(list(facts.values()))
        if (margin_mm := self.preprocessing.roi_margin_mm) is None:
            return found
        masks = check_masks(self.scans, self.preprocessing.reading, self.cache_dir)
        return replace(found, shapes=cropped_shapes(found, masks, margin_mm))

    def describe_scans(self, patients: set[str]) -> dict[str, Tensor]:
        """By what the scans of these patients are recognised, also altered copies of them."""
        signatures = self._signatures(self.rows_of(patients))
        return describe_scans([signature for _, signature in signatures])

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
        signatures = self._signatures(self.rows_of(patients))
        names = [patient for patient, _ in signatures]
        found = [signature for _, signature in signatures]
        return sorted({names[at] for scans in seen for at in find_seen(scans, found)})

    def _signatures(self, rows: Sequence[int]) -> list[tuple[str, Signature]]:
        """The signature of each image of these scans, with its patient."""
        wanted = set(rows)
        return [
            (image.patient_id, check.signature)
            for (row, image), check in zip(self.images, self.scan_checks, strict=True)
            if row in wanted and check.signature is not None
        ]

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
        rows = [
            [
                scan.patient_id,
                scan.image,
                label,
                *(scan_hash(each.path) for each in scan.images),
            ]
            for scan, label in zip(self.scans, self.labels, strict=True)
        ]
        more = [self.covariates.values.tolist()] if self.covariates.columns else []
        return digest([*rows, *more])

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
        there, here = asdict(Preprocessing.made_with(made_with)), asdict(self.preprocessing)
        for name in here:
            if name != "voxel_budget":
                _refuse_other(f"preprocessing.{name}", there[name], here[name])

    def refuse_other_inputs(self, made_with: dict[str, Any]) -> None:
        """Raise if a checkpoint was trained on other contrasts or covariates."""
        _refuse_other("contrasts", made_with.get("contrasts", []), self.contrasts)
        coded = Coding.of(made_with.get("covariates")).columns
        _refuse_other("covariates", coded, self.covariates.columns)

    def rows_of(self, patients: set[str], *, synthetic: bool = True) -> list[int]:
        """Positions of these patients' scans, with or without the synthetic ones."""
        return [
            row
            for row, scan in enumerate(self.scans)
            if scan.patient_id in patients and (synthetic or not scan.synthetic)
        ]

    def refuse_synthetic(self) -> None:
        """Raise if there is a synthetic row: they are not predicted."""
        if number := len(self.scans) - len(self.real):
            raise ValueError(
                f"{self.table} has {number} synthetic rows, for training alone: leave them out."
            )


def _refuse_other(name: str, there: Any, here: Any) -> None:
    if there != here:
        raise ValueError(
            f"The checkpoint was trained with {name} {there}, not {here}. Set --data.{name} to "
            "what it was trained with."
        )
