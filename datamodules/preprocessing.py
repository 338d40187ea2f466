"""Turn one scan into one small volume: RAS, common spacing, common shape, windowed intensity.

A scan may have several contrasts and a mask: each becomes a channel on the first contrast's grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torchio as tio

from datamodules.batches.warp import rotated_extent, turning_axes
from datamodules.reading.mask import box_of, open_mask
from datamodules.reading.nifti import Reading
from datamodules.reading.one_grid import open_image, to_grid
from datamodules.resampling import resample
from datamodules.window import EmptyWindowError, WindowOver, window

Triplet = tuple[float, float, float]
Shape = tuple[int, int, int]
Channels = list[np.ndarray | None]  # (W, H, D) each, None where a contrast is missing
ROUNDING = 0.01  # voxels; 256 × 0.9 mm as float32 are 256 voxels of 0.9 mm, not 255
BEFORE_IT_WAS_A_SETTING: dict[str, Any] = {
    "assume_orientation": None,
    "assume_spacing_mm": None,
    "fill_nan": False,
    "margin_degrees": 0.0,
    "window_over": "everything",
    "anti_alias": False,
    "register_contrasts": False,
    "roi_margin_mm": None,
    "mask_channel": False,
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
        register_contrasts: Move the further contrasts of a scan rigidly to where they match the
            first best; otherwise the affines are believed.
        roi_margin_mm: Crop to the mask's bounding box with so much around it; None uses no mask.
            A given or planned shape is then that of the crop.
        mask_channel: Give the mask to the network as one more channel.
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
    register_contrasts: bool = False
    roi_margin_mm: float | None = None
    mask_channel: bool = False

    def __post_init__(self) -> None:
        if self.spatial_shape is not None and self.fit is None:
            object.__setattr__(self, "fit", "crop_or_pad")
        if not 0 <= self.margin_degrees <= 45:
            raise ValueError(f"margin_degrees is {self.margin_degrees}; give 0 to 45.")
        if self.roi_margin_mm is not None and self.roi_margin_mm < 0:
            raise ValueError(f"roi_margin_mm is {self.roi_margin_mm}; give 0 or more.")
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

    @property
    def uses_mask(self) -> bool:
        """Whether each scan needs a mask."""
        return self.roi_margin_mm is not None or self.mask_channel

    def describe(self) -> str:
        """Say in one sentence what is done to a scan."""
        assert self.spatial_shape is not None, "plan the preprocessing before describing it"
        how = "cropped or padded" if self.fit == "crop_or_pad" else "resized"
        shape = " × ".join(str(size) for size in self.spatial_shape)
        spacing = ""
        if self.spacing_mm is not None:
            spacing = f" of {' × '.join(f'{size:g}' for size in self.spacing_mm)} mm"
        roi = ""
        if self.roi_margin_mm is not None:
            roi = f"cut to their mask with {self.roi_margin_mm:g} mm around it and "
        return f"Scans are {roi}{how} to {shape} voxels{spacing} (R × A × S)."

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
        volume: Float16 of shape (C, W, H, D); a contrast that is missing is NaN everywhere.
        spacing_mm: Its voxel size along R, A, S.
        clipped: Share of its foreground that lies above the window, 0 without a window; the
            largest of its contrasts.
        orientation: Where the axes of its first file point to, such as 'LPS'.
        file_spacing_mm: Voxel size of that file along R, A, S.
        file_sd: Standard deviation of that file's intensities.
    """

    volume: np.ndarray
    spacing_mm: Triplet
    clipped: float
    orientation: str
    file_spacing_mm: Triplet
    file_sd: float


def preprocess(
    scan: Path | Sequence[Path | None],
    preprocessing: Preprocessing,
    mask_path: Path | None = None,
) -> Preprocessed:
    """Read and preprocess one scan.

    Args:
        scan: A file with one 3D volume or a picture, or one for each contrast, None where it is
            missing.
        preprocessing: What to do, with its `spatial_shape` known.
        mask_path: File of the scan's mask, on the first contrast's grid, where one is used.

    Raises:
        ValueError: If a file cannot be read, is a picture in the place of a volume, holds NaN or
            Inf, has the same intensity nearly everywhere, or leaves the range of float16; if a mask
            is missing or does not fit.
    """
    wanted = preprocessing
    assert wanted.spatial_shape is not None, "plan the preprocessing before using it"
    paths = [scan] if isinstance(scan, Path) else scan
    first, geometry = open_image(next(path for path in paths if path is not None), wanted.reading)
    assumed = wanted.assume_spacing_mm
    spacing = np.array(first.spacing if geometry.spacing_known or assumed is None else assumed)
    file_spacing, file_sd = spacing, float(first.data.numpy().std())
    mask = open_mask(mask_path, first, paths[0], wanted.reading) if wanted.uses_mask else None
    channels = _on_one_grid(first, paths, wanted)
    del first  # its memory is needed below
    size = next(voxels.shape for voxels in channels if voxels is not None)
    _refuse_other_kind(paths, size, wanted)
    if wanted.spacing_mm is not None:
        steps = np.array(wanted.spacing_mm) / spacing
        shape = np.maximum(np.floor(size / steps + ROUNDING), 1).astype(int)
        step = partial(resample, shape=shape, steps=steps, anti_alias=wanted.anti_alias)
        channels, mask = _each(channels, step), None if mask is None else step(mask)
        spacing = np.array(wanted.spacing_mm)
    clipped = 0.0
    if wanted.window_percentiles is not None:
        for place, voxels in enumerate(channels):
            if voxels is not None:
                channels[place], share = _windowed(voxels, paths[place], wanted)
                clipped = max(clipped, share)
    if mask is not None and wanted.mask_channel:
        channels.append(mask)
    if mask is not None and wanted.roi_margin_mm is not None:
        box = box_of(mask, wanted.roi_margin_mm / spacing)
        channels = _each(channels, lambda voxels: voxels[box])
    if wanted.fit == "resize":
        shape = np.array(next(voxels.shape for voxels in channels if voxels is not None))
        extent = shape * spacing
        turned = rotated_extent(extent, wanted.margin_degrees * turning_axes(shape))
        air = (turned - extent) / spacing
        sides = [(round(size / 2),) * 2 for size in air]
        steps = (shape + np.sum(sides, axis=1)) / wanted.spatial_shape
        channels = _each(channels, lambda v: np.pad(v, sides, constant_values=v.min()))
        step = partial(
            resample, shape=wanted.spatial_shape, steps=steps, anti_alias=wanted.anti_alias
        )
        channels, spacing = _each(channels, step), spacing * steps
    else:
        fit = tio.CropOrPad(wanted.spatial_shape, padding_mode="minimum")
        channels = _each(channels, lambda voxels: fit(voxels[np.newaxis])[0])
    absent = np.full(wanted.spatial_shape, np.nan, np.float32)
    volume = np.stack([absent if voxels is None else voxels for voxels in channels])
    if np.nanmax(np.abs(volume)) > np.finfo(np.float16).max:
        raise ValueError(
            f"Scan {scan} reaches {np.nanmax(np.abs(volume)):g}, beyond the cache's float16. "
            "Leave it out, or set --data.preprocessing.window_percentiles."
        )
    return Preprocessed(
        volume.astype(np.float16),
        _triplet(spacing),
        clipped,
        geometry.orientation,
        _triplet(file_spacing),
        file_sd,
    )


def _refuse_other_kind(
    paths: Sequence[Path | None], size: tuple[int, ...], wanted: Preprocessing
) -> None:
    """Raise for a picture where volumes are wanted, and for a volume squeezed into a picture."""
    assert wanted.spatial_shape is not None
    flat, flat_wanted = size[2] == 1, wanted.spatial_shape[2] == 1
    if flat > flat_wanted or (flat < flat_wanted and wanted.fit == "resize"):
        kinds = ("pictures", "volumes")
        raise ValueError(
            f"Scan {next(filter(None, paths))} has {' × '.join(map(str, size))} voxels, but "
            f"{kinds[not flat_wanted]} of {' × '.join(map(str, wanted.spatial_shape))} are wanted. "
            f"Give {kinds[not flat_wanted]} alone."
        )


def _on_one_grid(
    first: tio.ScalarImage, paths: Sequence[Path | None], wanted: Preprocessing
) -> Channels:
    """The voxels of each contrast on the grid of the first one that is there."""
    place = next(place for place, path in enumerate(paths) if path is not None)
    channels: Channels = [None] * len(paths)
    channels[place] = first.data[0].numpy()
    for other, path in enumerate(paths):
        if path is not None and other != place:
            image, _ = open_image(path, wanted.reading)
            channels[other] = to_grid(image, first, path, register=wanted.register_contrasts)
    return channels


def _windowed(
    voxels: np.ndarray, path: Path | None, wanted: Preprocessing
) -> tuple[np.ndarray, float]:
    assert wanted.window_percentiles is not None
    try:
        return window(voxels, wanted.window_percentiles, wanted.window_over)
    except EmptyWindowError as error:
        low, high = wanted.window_percentiles
        raise ValueError(
            f"Scan {path} has one intensity, {error}, at its percentiles {low:g} and {high:g}. "
            "Leave it out, or widen --data.preprocessing.window_percentiles."
        ) from error


def _each(channels: Channels, step: Callable[[np.ndarray], np.ndarray]) -> Channels:
    """Do the same to every channel that is there."""
    return [None if voxels is None else step(voxels) for voxels in channels]


def _triplet(sizes: np.ndarray) -> Triplet:
    right, front, up = sizes.tolist()
    return right, front, up
