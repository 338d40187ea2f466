"""Turn one scan into one small volume: RAS, common spacing, common shape, windowed intensity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torchio as tio

from datamodules.batches.warp import rotated_extent
from datamodules.reading.nifti import Reading, ScanError, read_volume
from datamodules.resampling import resample
from datamodules.window import EmptyWindowError, WindowOver, window

Triplet = tuple[float, float, float]
Shape = tuple[int, int, int]
ROUNDING = 0.01  # voxels; 256 × 0.9 mm as float32 are 256 voxels of 0.9 mm, not 255
BEFORE_IT_WAS_A_SETTING: dict[str, Any] = {
    "assume_orientation": None,
    "assume_spacing_mm": None,
    "fill_nan": False,
    "margin_degrees": 0.0,
    "window_over": "everything",
    "anti_alias": False,
}


@dataclass(frozen=True)
class Preprocessing:
    """What is done once to every scan, the same for all (MCTL §3.1).

    Args:
        spacing_mm: Voxel size after resampling, in mm along R, A, S; None keeps each scan's own.
        spatial_shape: Voxels along R, A, S after preprocessing; None lets the cohort's
            fingerprint choose shape, spacing and fit under `voxel_budget`.
        fit: How the shape is reached: 'crop_or_pad' keeps millimetres, 'resize' keeps the whole
            field of view; None is 'crop_or_pad' unless the voxel size of most scans is unknown.
        margin_degrees: Rotation about each axis by which nothing is to be cut off (MCTL §3.2):
            scans get as much air around them as that takes, all alike, also those that are not
            augmented. With crop_or_pad it widens the planned shape; a given one stays as it is.
        window_percentiles: Lower and upper percentile of each volume's intensities, mapped to 0
            and 1 (MCTL: the middle 95 %, 2.5 and 97.5); None keeps the raw intensities.
        window_over: What the upper percentile is taken over: the 'foreground' of each volume, or
            'everything' in the field of view (MCTL), which saturates tissue that fills little of
            it. The lower one is always taken over everything, so that dark tissue is kept.
        anti_alias: Average over the voxels that are merged where a scan gets coarser; otherwise
            only the nearest count, as in TorchIO.
        divide_by: What volumes are divided by after subtracting the training patients' mean: the
            training patients' standard deviation, 'sd', or their 'range' (MCTL; after a window to
            0 and 1 it is always 1).
        voxel_budget: Largest number of voxels that a planned shape may have; None follows the
            device that is there when a run is begun, see datamodules/fingerprint.py.
        assume_orientation: Where the axes of scans point to whose headers do not say it, such as
            'LPS'; None refuses such scans.
        assume_spacing_mm: Voxel size along R, A, S of scans whose headers do not say it; None is
            the median of the others where these are the majority, otherwise unknown.
        fill_nan: Give NaN voxels, as resampling leaves them at the border, the scan's smallest
            intensity; otherwise such scans are refused.
    """

    spacing_mm: Triplet | None = None
    spatial_shape: Shape | None = None
    fit: Literal["crop_or_pad", "resize"] | None = None
    margin_degrees: float = 0.0
    window_percentiles: tuple[float, float] | None = (0.5, 99.5)
    window_over: WindowOver = "foreground"
    anti_alias: bool = False
    divide_by: Literal["range", "sd"] = "sd"
    voxel_budget: int | None = None
    assume_orientation: str | None = None
    assume_spacing_mm: Triplet | None = None
    fill_nan: bool = False

    def __post_init__(self) -> None:
        if self.spatial_shape is not None and self.fit is None:
            object.__setattr__(self, "fit", "crop_or_pad")
        if not 0 <= self.margin_degrees <= 45:
            raise ValueError(f"margin_degrees is {self.margin_degrees}; give 0 to 45.")
        low, high = self.window_percentiles or (0, 100)
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"window_percentiles {self.window_percentiles} must be two numbers from 0 to 100, "
                "the lower first, such as [0.5, 99.5]."
            )

    @property
    def reading(self) -> Reading:
        """What is done where a scan's file leaves something open."""
        return Reading(self.assume_orientation, self.fill_nan)

    def describe(self) -> str:
        """Say in one sentence what is done to a scan."""
        assert self.spatial_shape is not None, "plan the preprocessing before describing it"
        how = "cropped or padded" if self.fit == "crop_or_pad" else "resized"
        shape = " × ".join(str(size) for size in self.spatial_shape)
        spacing = ""
        if self.spacing_mm is not None:
            spacing = f" of {' × '.join(f'{size:g}' for size in self.spacing_mm)} mm"
        return f"Scans are {how} to {shape} voxels{spacing} (R × A × S)."

    @classmethod
    def made_with(cls, settings: dict[str, Any]) -> "Preprocessing":
        """Read what a checkpoint was trained with; one may be older than a setting.

        Args:
            settings: The settings as a dictionary, lists in the place of tuples allowed.
        """
        tuples: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()
        }
        return cls(**(BEFORE_IT_WAS_A_SETTING | tuples))


class Preprocessed(NamedTuple):
    """One scan after preprocessing.

    Args:
        volume: Float16 of shape (1, W, H, D).
        spacing_mm: Its voxel size along R, A, S.
        clipped: Share of its foreground that lies above the window, 0 without a window.
        orientation: Where the axes of its file point to, such as 'LPS'.
        file_spacing_mm: Voxel size of its file along R, A, S.
        file_sd: Standard deviation of the intensities of its file.
    """

    volume: np.ndarray
    spacing_mm: Triplet
    clipped: float
    orientation: str
    file_spacing_mm: Triplet
    file_sd: float


def preprocess(path: Path, preprocessing: Preprocessing) -> Preprocessed:
    """Read and preprocess one scan.

    Args:
        path: A NIfTI file with one 3D volume.
        preprocessing: What to do, with its `spatial_shape` known.

    Raises:
        ValueError: If the file cannot be read, is not one 3D volume, holds NaN or Inf, has the
            same intensity nearly everywhere, or leaves the range of float16.
    """
    wanted = preprocessing
    assert wanted.spatial_shape is not None, "plan the preprocessing before using it"
    try:
        scan = read_volume(path, wanted.reading)
    except ScanError as fault:
        raise ValueError(f"Scan {path} {fault}") from fault
    geometry = scan.geometry
    image = tio.ScalarImage(tensor=scan.voxels[np.newaxis], affine=geometry.affine)
    image = tio.ToCanonical()(image)
    assumed = wanted.assume_spacing_mm
    spacing = np.array(image.spacing if geometry.spacing_known or assumed is None else assumed)
    file_spacing, file_sd = spacing, float(scan.voxels.std())
    voxels, clipped = image.data[0].numpy(), 0.0
    del scan, image  # their memory is needed below
    if wanted.spacing_mm is not None:
        steps = np.array(wanted.spacing_mm) / spacing
        shape = np.maximum(np.floor(voxels.shape / steps + ROUNDING), 1).astype(int)
        voxels = resample(voxels, shape, steps, anti_alias=wanted.anti_alias)
        spacing = np.array(wanted.spacing_mm)
    if wanted.window_percentiles is not None:
        try:
            voxels, clipped = window(voxels, wanted.window_percentiles, wanted.window_over)
        except EmptyWindowError as error:
            low, high = wanted.window_percentiles
            raise ValueError(
                f"Scan {path} has one intensity, {error}, at its percentiles {low:g} and {high:g}. "
                "Leave it out, or widen --data.preprocessing.window_percentiles."
            ) from error
    if wanted.fit == "resize":
        extent = np.array(voxels.shape) * spacing
        air = (rotated_extent(extent, wanted.margin_degrees) - extent) / spacing
        sides = [(round(size / 2),) * 2 for size in air]
        voxels = np.pad(voxels, sides, constant_values=voxels.min())
        steps = np.array(voxels.shape) / wanted.spatial_shape
        voxels = resample(voxels, wanted.spatial_shape, steps, anti_alias=wanted.anti_alias)
        spacing = spacing * steps
    else:
        fit = tio.CropOrPad(wanted.spatial_shape, padding_mode="minimum")
        voxels = fit(voxels[np.newaxis])[0]
    if np.abs(voxels).max() > np.finfo(np.float16).max:
        raise ValueError(
            f"Scan {path} reaches {np.abs(voxels).max():g}, beyond the cache's float16. "
            "Leave it out, or set --data.preprocessing.window_percentiles."
        )
    return Preprocessed(
        voxels[np.newaxis].astype(np.float16),
        _triplet(spacing),
        clipped,
        geometry.orientation,
        _triplet(file_spacing),
        file_sd,
    )


def _triplet(sizes: np.ndarray) -> Triplet:
    right, front, up = sizes.tolist()
    return right, front, up
