"""The cached volumes of a cohort, and the intensity scale fitted on some of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from datamodules.batches.workers import usable_cores
from datamodules.cache.row_cache import Facts, cached_rows
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading.cohort_table import Scan
from datamodules.reading.nifti import scan_hash
from files.hashes import digest

MUCH_CLIPPED = 0.02  # share of a scan's foreground
VERSION = 4  # of what is done to a scan; raise it when the same settings give other rows


@dataclass(frozen=True)
class Volumes:
    """Preprocessed volumes on disk, last axis first, so that in-plane rows are contiguous.

    Args:
        data: Memmap, float16 of shape (N, C, D, W, H); a channel is NaN where a scan lacks it.
        keys: Hash of each scan's files, (N,).
        spacings_mm: Voxel sizes after preprocessing, (N, 3) along R, A, S.
        means: Mean of each channel, (N, C).
        mean_squares: Mean of each channel's squared voxels, (N, C).
        minima: Smallest voxel of each channel, (N, C).
        maxima: Largest voxel of each channel, (N, C).
        clipped: Share of each scan's foreground that its window clips, (N,).
        orientations: Where the axes of each scan's first file point to, (N,).
        file_spacings_mm: Voxel sizes before preprocessing, (N, 3) along R, A, S.
        file_sds: Standard deviation of each scan's first file before preprocessing, (N,).
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

    def much_clipped(self) -> str:
        """Count the scans whose window clips much of their foreground, '' if there is none."""
        much = self.clipped > MUCH_CLIPPED
        if not much.any():
            return ""
        return (
            f"The window clips more than {100 * MUCH_CLIPPED:g} % of the foreground of "
            f"{much.sum()} of {len(much)} scans (median of these: "
            f"{100 * np.median(self.clipped[much]):.0f} %). Set "
            "--data.preprocessing.window_over=foreground, or widen "
            "--data.preprocessing.window_percentiles."
        )


@dataclass(frozen=True)
class Intensity:
    """Brightness of a training set (MCTL §3.1): mean, and range or standard deviation.

    Args:
        mean: Mean of each channel, (C,).
        divisor: What each channel is divided by, (C,).
    """

    mean: tuple[float, ...]
    divisor: tuple[float, ...]

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Intensity":
        """Read what a checkpoint or bundle keeps; older ones have one number each."""
        return cls(*(tuple(np.atleast_1d(state[name]).tolist()) for name in ("mean", "divisor")))

    def scale(self, volume: Tensor) -> Tensor:
        """Subtract the mean and divide, in float32; volume: (B, C, W, H, D)."""
        mean, divisor = (
            torch.tensor(each, device=volume.device)[:, None, None, None]
            for each in (self.mean, self.divisor)
        )
        return volume.float().sub(mean).div_(divisor)


def load_volumes(scans: Sequence[Scan], preprocessing: Preprocessing, cache_dir: Path) -> Volumes:
    """Preprocess the scans that the cache does not hold yet, and open all of them.

    Args:
        scans: Scans of the cohort, in the order wanted.
        preprocessing: What to do, with its `spatial_shape` known.
        cache_dir: Folder of the cache; may be deleted at any time.
    """
    assert preprocessing.spatial_shape is not None
    width, height, depth = preprocessing.spatial_shape
    num_channels = len(scans[0].paths) + preprocessing.mask_channel
    keys = [_key(scan, preprocessing) for scan in scans]
    settings = asdict(preprocessing) | {"voxel_budget": None, "divide_by": None}
    recipe = digest("volumes", VERSION, settings, tio.__version__)

    data, facts = cached_rows(
        cache_dir / f"volumes-{recipe}",
        keys,
        (num_channels, depth, width, height),
        partial(_build_row, list(scans), preprocessing),
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


def _key(scan: Scan, preprocessing: Preprocessing) -> str:
    """Hash of all files that a row is made of; of one file it is that file's."""
    files = [*scan.paths, scan.mask_path] if preprocessing.uses_mask else scan.paths
    hashes = [path and scan_hash(path) for path in files]
    return hashes[0] if len(hashes) == 1 and hashes[0] else digest(hashes)


def _build_row(
    scans: Sequence[Scan], preprocessing: Preprocessing, position: int
) -> tuple[np.ndarray, Facts]:
    row = scans[position]
    scan = preprocess(row.paths, preprocessing, row.mask_path)
    voxels = [channel.astype(np.float64) for channel in scan.volume]
    return np.moveaxis(scan.volume, -1, 1), {
        "spacing_mm": scan.spacing_mm,
        "mean": [float(channel.mean()) for channel in voxels],
        "mean_square": [float(np.square(channel).mean()) for channel in voxels],
        "min": [float(channel.min()) for channel in voxels],
        "max": [float(channel.max()) for channel in voxels],
        "clipped": scan.clipped,
        "orientation": scan.orientation,
        "file_spacing_mm": scan.file_spacing_mm,
        "file_sd": scan.file_sd,
    }


def fit_intensity(
    volumes: Volumes, rows: np.ndarray, divide_by: Literal["range", "sd"]
) -> Intensity:
    """Fit the intensity scale of each channel on the given rows, which must be training scans.

    Args:
        volumes: The cached cohort.
        rows: Rows to fit on; of a channel, those count that have it.
        divide_by: Whether the divisor is the range or the standard deviation over all voxels.

    Raises:
        ValueError: If none of the rows has a channel.
    """
    scales = [
        _fit_channel(volumes, rows, channel, divide_by) for channel in range(volumes.means.shape[1])
    ]
    means, divisors = zip(*scales, strict=True)
    return Intensity(means, divisors)


def _fit_channel(
    volumes: Volumes, rows: np.ndarray, channel: int, divide_by: Literal["range", "sd"]
) -> tuple[float, float]:
    rows = rows[~np.isnan(volumes.means[rows, channel])]
    if not len(rows):
        raise ValueError(
            f"No training scan of this fold has contrast number {channel + 1}: leave it out of "
            "--data.contrasts."
        )
    mean = float(volumes.means[rows, channel].mean())
    if divide_by == "range":
        divisor = float(volumes.maxima[rows, channel].max() - volumes.minima[rows, channel].min())
    else:
        divisor = float(np.sqrt(volumes.mean_squares[rows, channel].mean() - mean**2))
    assert divisor > 0, "preprocessing refuses constant scans"
    return mean, divisor
