"""The mask of a scan: the voxels of the region that a question is about."""

from pathlib import Path

import numpy as np
import torchio as tio
from jaxtyping import Float
from scipy import ndimage

from datamodules.reading.nifti import Reading
from datamodules.reading.one_grid import is_same_grid, open_image

# Axes: W, H, D = voxels along R, A, S.

BRIGHT = 1 / 8  # of the way from the darkest to the brightest intensity: no longer air
HALF = 0.5  # of a mask's voxels that may lie outside the head
INSIDE = 0.25  # share of a resampled voxel that counts as inside


def open_mask(
    path: Path | None, first: tio.ScalarImage, image: Path | None, reading: Reading
) -> Float[np.ndarray, "w h d"]:
    """Read a mask: 1 where the file is not 0.

    Args:
        path: Its file.
        first: The image whose grid it must have.
        image: File of that image, for messages.
        reading: What is done where a file leaves something open.

    Raises:
        ValueError: If it is missing, constant, on another grid, or mostly outside the head.
    """
    if path is None:
        raise ValueError(f"Scan {image} has no mask: fill the column mask, or leave masks out.")
    try:
        mask, _ = open_image(path, reading)
    except ValueError as error:
        raise ValueError(str(error).replace("Scan", "Mask", 1)) from error
    inside = mask.data[0].numpy() != 0
    if not is_same_grid(mask, first):
        raise ValueError(
            f"Mask {path} is on another grid than {image}: {_grid(mask)} there, {_grid(first)} "
            "here. Draw it on that image, or resample it."
        )
    outside = float((inside & ~head(first.data[0].numpy())).sum() / inside.sum())
    if outside > HALF:
        raise ValueError(
            f"Mask {path} lies outside the head: {outside:.0%} of its voxels are in the air of "
            f"{image}. See that it belongs to this image and is not shifted."
        )
    return inside.astype(np.float32)


def head(voxels: Float[np.ndarray, "w h d"]) -> np.ndarray:
    """Whether each voxel lies in the head: bright, or enclosed by what is."""
    low, high = np.percentile(voxels[::2, ::2, ::2], [1, 99])
    bright = voxels > low + BRIGHT * (high - low)
    filled = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(bright, 2, 0)]
    return np.stack(filled, axis=2)


def box_of(mask: Float[np.ndarray, "w h d"], margin: Float[np.ndarray, "3"]) -> tuple[slice, ...]:
    """The bounding box of a mask.

    Args:
        mask: Share of each voxel that is inside.
        margin: Voxels to add along each axis; the box ends where the volume does.
    """
    inside = mask > min(INSIDE, mask.max() / 2)
    box = []
    for axis, (size, more) in enumerate(zip(mask.shape, margin, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        start, stop = places[0] - round(more), places[-1] + 1 + round(more)
        box.append(slice(max(int(start), 0), min(int(stop), size)))
    return tuple(box)


def _grid(image: tio.Image) -> str:
    shape = " × ".join(map(str, image.spatial_shape))
    origin = ", ".join(f"{place:.1f}" for place in image.affine[:3, 3])
    return (
        f"{shape} voxels of {' × '.join(f'{mm:.3g}' for mm in image.spacing)} mm from {origin} mm"
    )
