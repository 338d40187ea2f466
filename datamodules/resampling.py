"""Resample a volume along its axes to exactly the shape asked for."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import sparse

# Axes: W, H, D = voxels along R, A, S.


def resample(
    volume: Float[np.ndarray, "w h d"],
    shape: Sequence[int] | np.ndarray,
    steps: Sequence[float] | np.ndarray,
    *,
    anti_alias: bool = False,
) -> Float[np.ndarray, "..."]:
    """Interpolate linearly on a grid with the same centre.

    Half a voxel at the border, which has no neighbour to interpolate with, repeats the outermost.

    Args:
        volume: Intensities.
        shape: Voxels of the result along each axis.
        steps: Distance of the result's voxels in voxels of `volume`, along each axis; old / new
            voxels keeps the field of view, as TorchIO's Resize does.
        anti_alias: Average over as many voxels as are merged into one where an axis gets coarser
            (a triangle as wide as two of the new voxels, as in Pillow and torchvision); otherwise
            only the two nearest count, and what lies between is lost.

    Returns:
        Intensities of the shape asked for, float32.
    """
    volume = np.asarray(volume, dtype=np.float32)
    for size, step in zip(shape, steps, strict=True):
        reach = max(float(step), 1.0) if anti_alias else 1.0
        weights = _weights(len(volume), int(size), float(step), reach)
        resampled = weights @ volume.reshape(len(volume), -1)
        volume = np.moveaxis(resampled.reshape(size, *volume.shape[1:]), 0, -1)  # the next in front
    return np.ascontiguousarray(volume)


def _weights(num_old: int, num_new: int, step: float, reach: float) -> sparse.csr_array:
    """How much each old voxel counts for each new one, (num_new, num_old); rows add up to 1."""
    centres = (num_old - 1) / 2 + (np.arange(num_new) - (num_new - 1) / 2) * step
    nearest = np.rint(centres).astype(int)
    around = nearest[:, None] + np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 1)
    weights = np.clip(1 - np.abs(around - centres[:, None]) / reach, 0, None)
    weights *= (around >= 0) & (around < num_old)
    weights /= weights.sum(axis=1, keepdims=True)
    new = np.broadcast_to(np.arange(num_new)[:, None], around.shape)
    used = weights > 0
    entries = weights[used].astype(np.float32), (new[used], around[used])
    return sparse.csr_array(entries, shape=(num_new, num_old))
