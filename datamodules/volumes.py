"""The cached volumes of a cohort, and the intensity scale fitted on some of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torchio as tio
from torch import Tensor

from datamodules.batches.workers import usable_cores
from datamodules.cache.row_cache import Facts, cached_rows
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading.cohort_table import Scan
from datamodules.reading.nifti import scan_hash
from files.hashes import digest

VERSION = 3  # of what is done to a scan; raise it when the same settings give other rows


@dataclass(frozen=True)
class Volumes:
    """Preprocessed volumes on disk, last axis first, so that in-plane rows are contiguous.

    Args:
        data: Memmap, float16 of shape (N, 1, D, W, H).
        keys: Hash of each scan's file, (N,).
        spacings_mm: Voxel sizes after preprocessing, (N, 3) along R, A, S.
        means: Mean of each volume, (N,).
        mean_squares: Mean of each volume's squared voxels, (N,).
        minima: Smallest voxel of each volume, (N,).
        maxima: Largest voxel of each volume, (N,).
        clipped: Share of each scan's foreground that its window clips, (N,).
        orientations: Where the axes of each scan's file point to, (N,).
        file_spacings_mm: Voxel sizes before preprocessing, (N, 3) along R, A, S.
        file_sds: Standard deviation of each scan before preprocessing, (N,).
        recipe: Hash of everything that was done to the scans.
    """

    data: np.memmap
    keys: list[str]
    spacings_mm: np.ndarray
    means: np.ndarray
    mean_squares: np.ndarray
    minima: np.ndarray
    maxima: np.ndarray
    clipped: np.ndarray
    orientations: list[str]
    file_spacings_mm: np.ndarray
    file_sds: np.ndarray
    recipe: str


@dataclass(frozen=True)
class Intensity:
    """Brightness of a training set (MCTL §3.1): its mean, and its range or standard deviation."""

    mean: float
    divisor: float

    def scale(self, volume: Tensor) -> Tensor:
        """Subtract the mean and divide, in float32."""
        return volume.float().sub(self.mean).div_(self.divisor)


def load_volumes(scans: Sequence[Scan], preprocessing: Preprocessing, cache_dir: Path) -> Volumes:
    """Preprocess the scans that the cache does not hold yet, and open all of them.

    Args:
        scans: Scans of the cohort, in the order wanted.
        preprocessing: What to do, with its `spatial_shape` known.
        cache_dir: Folder of the cache; may be deleted at any time.
    """
    assert preprocessing.spatial_shape is not None
    width, height, depth = preprocessing.spatial_shape
    keys = [scan_hash(scan.path) for scan in scans]
    settings = asdict(preprocessing) | {"voxel_budget": None, "divide_by": None}
    recipe = digest("volumes", VERSION, settings, tio.__version__)

    data, facts = cached_rows(
        cache_dir / f"volumes-{recipe}",
        keys,
        (1, depth, width, height),
        partial(_build_row, [scan.path for scan in scans], preprocessing),
        what="volumes",
        num_workers=usable_cores(),
    )
    return Volumes(
        data=data,
        keys=keys,
        spacings_mm=np.array([fact["spacing_mm"] for fact in facts]),
        means=np.array([fact["mean"] for fact in facts]),
        mean_squares=np.array([fact["mean_square"] for fact in facts]),
        minima=np.array([fact["min"] for fact in facts]),
        maxima=np.array([fact["max"] for fact in facts]),
        clipped=np.array([fact["clipped"] for fact in facts]),
        orientations=[fact["orientation"] for fact in facts],
        file_spacings_mm=np.array([fact["file_spacing_mm"] for fact in facts]),
        file_sds=np.array([fact["file_sd"] for fact in facts]),
        recipe=recipe,
    )


def _build_row(
    paths: Sequence[Path], preprocessing: Preprocessing, position: int
) -> tuple[np.ndarray, Facts]:
    scan = preprocess(paths[position], preprocessing)
    voxels = scan.volume.astype(np.float64)
    return np.moveaxis(scan.volume, -1, 1), {
        "spacing_mm": scan.spacing_mm,
        "mean": float(voxels.mean()),
        "mean_square": float(np.square(voxels).mean()),
        "min": float(voxels.min()),
        "max": float(voxels.max()),
        "clipped": scan.clipped,
        "orientation": scan.orientation,
        "file_spacing_mm": scan.file_spacing_mm,
        "file_sd": scan.file_sd,
    }


def fit_intensity(
    volumes: Volumes, rows: np.ndarray, divide_by: Literal["range", "sd"]
) -> Intensity:
    """Fit the intensity scale on the given rows alone, which must be training scans.

    Args:
        volumes: The cached cohort.
        rows: Rows to fit on.
        divide_by: Whether the divisor is the range or the standard deviation over all voxels.
    """
    mean = float(volumes.means[rows].mean())
    if divide_by == "range":
        divisor = float(volumes.maxima[rows].max() - volumes.minima[rows].min())
    else:
        divisor = float(np.sqrt(volumes.mean_squares[rows].mean() - mean**2))
    assert divisor > 0, "preprocessing refuses constant scans"
    return Intensity(mean, divisor)
