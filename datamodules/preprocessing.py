"""Turn one scan into one small volume: RAS, common spacing, common shape, windowed intensity."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torchio as tio

from datamodules.nifti import ScanError, read_volume

Triplet = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Preprocessing:
    """What is done once to every scan, the same for all (MCTL §3.1).

    Args:
        spacing_mm: Voxel size after resampling, in mm along R, A, S; None keeps each scan's own,
            for headers that do not know it.
        spatial_shape: Voxels along R, A, S after preprocessing; None lets the cohort's
            fingerprint choose shape, spacing and fit under `voxel_budget`.
        fit: How the shape is reached: 'crop_or_pad' keeps millimetres, 'resize' keeps the whole
            field of view.
        window_percentiles: Lower and upper percentile of each volume's intensities, mapped to 0
            and 1 (the middle 95 % by default); None keeps the raw intensities.
        divide_by: What volumes are divided by after subtracting the training patients' mean: the
            training patients' 'range' (MCTL) or standard deviation, 'sd'.
        voxel_budget: Largest number of voxels that a planned shape may have; raise it where small
            structures matter and a GPU is at hand.
        assume_orientation: Where the axes of scans point to whose headers do not say it, such as
            'LPS'; None refuses such scans.
    """

    spacing_mm: Triplet | None = None
    spatial_shape: Shape | None = None
    fit: Literal["crop_or_pad", "resize"] = "crop_or_pad"
    window_percentiles: tuple[float, float] | None = (2.5, 97.5)
    divide_by: Literal["range", "sd"] = "range"
    voxel_budget: int = 40**3
    assume_orientation: str | None = None

    def describe(self) -> str:
        """Say in one sentence what is done to a scan."""
        assert self.spatial_shape is not None, "plan the preprocessing before describing it"
        how = "cropped or padded" if self.fit == "crop_or_pad" else "resized"
        shape = " × ".join(str(size) for size in self.spatial_shape)
        spacing = ""
        if self.spacing_mm is not None:
            spacing = f" of {' × '.join(f'{size:g}' for size in self.spacing_mm)} mm"
        return f"Scans are {how} to {shape} voxels{spacing} (R × A × S)."

    def transform(self) -> tio.Compose:
        """Build the TorchIO transform; needs a known `spatial_shape`."""
        assert self.spatial_shape is not None, "plan the preprocessing before using it"
        steps: list[tio.Transform] = [tio.ToCanonical()]
        if self.spacing_mm is not None:
            steps.append(tio.Resample(self.spacing_mm))
        if self.window_percentiles is not None:
            steps.append(tio.RescaleIntensity((0, 1), percentiles=self.window_percentiles))
        fit = {"crop_or_pad": tio.CropOrPad, "resize": tio.Resize}[self.fit]
        return tio.Compose([*steps, fit(self.spatial_shape)])


def preprocess(path: Path, preprocessing: Preprocessing) -> tuple[np.ndarray, Triplet]:
    """Read and preprocess one scan.

    Args:
        path: A NIfTI file with one 3D volume.
        preprocessing: What to do, with its `spatial_shape` known.

    Returns:
        The volume, float16 of shape (1, W, H, D), and its spacing in mm.

    Raises:
        ValueError: If the file cannot be read, is not one 3D volume, holds NaN or Inf, has the
            same intensity nearly everywhere, or leaves the range of float16.
    """
    image = _read(path, preprocessing.assume_orientation)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            image = preprocessing.transform()(image)
    except RuntimeWarning as error:  # TorchIO found nothing between the percentiles
        raise ValueError(
            f"Scan {path} has one intensity between its {preprocessing.window_percentiles} "
            "percentiles. Leave it out, or widen --data.preprocessing.window_percentiles."
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"Cannot resample scan {path}: {_reason(error)} Check its header."
        ) from error
    volume = image.data.numpy()
    if np.abs(volume).max() > np.finfo(np.float16).max:
        raise ValueError(
            f"Scan {path} reaches {np.abs(volume).max():g}, beyond the cache's float16. "
            "Set --data.preprocessing.window_percentiles."
        )
    return volume.astype(np.float16), image.spacing


def _read(path: Path, assume_orientation: str | None) -> tio.ScalarImage:
    try:
        volume = read_volume(path, assume_orientation)
    except ScanError as fault:
        raise ValueError(f"Scan {path} {fault}") from fault
    return tio.ScalarImage(tensor=volume.voxels[np.newaxis], affine=volume.geometry.affine)


def _reason(error: Exception) -> str:
    """Last line of an error, where libraries say what is wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
