"""A cohort: the rows of its table, the plan of its preprocessing, its cached volumes."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cohort_table import Columns, Scan, read_cohort_table
from datamodules.fingerprint import plan_preprocessing, read_fingerprint
from datamodules.preprocessing import Preprocessing
from datamodules.row_cache import digest
from datamodules.scan_check import file_hash
from datamodules.volumes import Intensity, Volumes, fit_intensity, load_volumes


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
            raise ValueError("No cohort table given. Say DATA=path/to/table.csv.")
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

    def plan(self) -> str:
        """Choose what the preprocessing leaves open, and say in words what is done to a scan."""
        if self.preprocessing.spatial_shape is not None:
            return self.preprocessing.describe()
        fingerprint = read_fingerprint([scan.path for scan in self.scans])
        self.preprocessing, why = plan_preprocessing(fingerprint, self.preprocessing)
        return f"{self.preprocessing.describe()} {why}"

    def content_hash(self) -> str:
        """Hash the table's rows and the content of every scan."""
        return digest(
            [(scan.patient_id, scan.image, scan.label, file_hash(scan.path)) for scan in self.scans]
        )

    @cached_property
    def volumes(self) -> Volumes:
        """The preprocessed scans; the first access builds what the cache lacks."""
        self.plan()
        return load_volumes(self.scans, self.preprocessing, self.cache_dir)

    def fit_intensity(self, rows: np.ndarray) -> Intensity:
        """Fit the intensity scale on these rows alone, which must be training scans."""
        return fit_intensity(self.volumes, rows, self.preprocessing.divide_by)

    def refuse_other_preprocessing(self, made_with: dict[str, Any]) -> None:
        """Raise if a checkpoint was trained on scans that were preprocessed in another way."""
        for name, here in asdict(self.preprocessing).items():
            if name != "voxel_budget" and here != made_with[name]:
                raise ValueError(
                    f"The checkpoint was trained with preprocessing.{name} {made_with[name]}, not "
                    f"{here}. Set --data.preprocessing.{name} to what it was trained with."
                )

    def rows_of(self, patients: set[str]) -> list[int]:
        """Positions of these patients' scans."""
        return [row for row, scan in enumerate(self.scans) if scan.patient_id in patients]
