"""Rotate, scale, shift and mirror a batch of volumes, voxel for voxel as TorchIO's Affine does.

A copy is a map from its voxels to places in the volume, 3 × 4 numbers. On a CPU these places are
looked up by a loop in C; on other devices, and where there is no C compiler, by torch's
`grid_sample`.
"""

import ctypes
from collections.abc import Sequence
from itertools import product

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kernels.compiled import call, compiled

# Axes: B = batch; W, H, D = voxels along R, A, S.


def rotation_matrix(degrees: np.ndarray) -> np.ndarray:
    """Turn TorchIO's angles in degrees about R, A, S, (3,), into a matrix in RAS, (3, 3)."""
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(*(np.radians(degrees) * (-1, -1, 1)))  # SimpleITK counts in LPS
    signs = np.array([-1, -1, 1])
    return signs[:, None] * np.array(rotation.GetMatrix()).reshape(3, 3) * signs


def turning_axes(spatial_shape: Sequence[int] | np.ndarray) -> np.ndarray:
    """Whether a volume can turn about R, A, S, (3,): a picture, one voxel thick, in its plane."""
    thick = np.array(spatial_shape) > 1
    return np.array([np.delete(thick, axis).all() for axis in range(3)])


def rotated_extent(extent: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Bounding box that holds a box under every rotation by up to so many degrees about each axis.

    Args:
        extent: Size of the box along R, A, S, (3,).
        degrees: Largest rotation about R, A, S, either way, (3,).
    """
    turns = product(*((-most, 0.0, most) for most in degrees.tolist()))
    return np.max([np.abs(rotation_matrix(np.array(turn))) @ extent for turn in turns], axis=0)


def voxel_map(
    scale: float,
    degrees: np.ndarray,
    shift_mm: np.ndarray,
    flips: np.ndarray,
    spacing_mm: np.ndarray,
    spatial_shape: Sequence[int],
) -> np.ndarray:
    """Map the voxels of a copy to places in the volume.

    Args:
        scale: Size of the copy, about the centre.
        degrees: Rotation about R, A, S, (3,); of a picture the one in its plane counts.
        shift_mm: Shift along R, A, S, after the rotation, (3,); likewise.
        flips: Whether the copy is then mirrored along R, A, S, (3,).
        spacing_mm: Voxel size along R, A, S, (3,).
        spatial_shape: Voxels along R, A, S.

    Returns:
        Matrix and offset side by side, (3, 4).
    """
    size = np.array(spatial_shape)
    centre = (size - 1) / 2
    degrees, shift_mm = degrees * turning_axes(size), shift_mm * (size > 1)
    turn_back = rotation_matrix(degrees).T / spacing_mm[:, None]
    matrix = turn_back * spacing_mm / scale
    offset = centre - matrix @ centre - turn_back @ shift_mm
    offset += matrix @ np.where(flips, size - 1, 0)
    return np.column_stack([matrix * np.where(flips, -1, 1), offset])


def warp(
    volume: Float[Tensor, "b c w h d"], voxel_maps: Float[Tensor, "b 3 4"]
) -> Float[Tensor, "b c w h d"]:
    """Make a copy of each volume, all its channels alike.

    Args:
        volume: Volumes of any float type, fastest with the last axis stored first.
        voxel_maps: Where each copy's voxels come from, see `voxel_map`.

    Returns:
        The copies, float32; what lies outside has the channel's smallest value.
    """
    kernel = compiled("warp") if volume.device.type == "cpu" else None
    return (
        _warp_by_grid(volume, voxel_maps)
        if kernel is None
        else _warp_by_loop(kernel, volume, voxel_maps)
    )


def _warp_by_loop(kernel: ctypes.CDLL, volume: Tensor, voxel_maps: Tensor) -> Tensor:
    order = [2, 0, 1]  # the stored order of the axes: D, W, H
    maps = voxel_maps[:, order][:, :, [*order, 3]].double().contiguous()
    stored = volume.movedim(-1, 2)
    source = torch.zeros(stored[0, 0].numel() + 3)  # the loop reads on a little
    copies = torch.empty(stored.shape)
    sizes = *stored.shape[2:], torch.get_num_threads()
    for scan, its_copies, voxel_map in zip(stored, copies, maps, strict=True):
        for one, copy in zip(scan, its_copies, strict=True):
            source[:-3].view(one.shape).copy_(one)
            call(kernel.warp, source, copy, voxel_map, source[:-3].min().item(), *sizes)
    return copies.movedim(2, -1)


def _warp_by_grid(volume: Tensor, voxel_maps: Tensor) -> Tensor:
    sizes = volume.shape[2:]
    maps = voxel_maps.double()[..., None, None, None]  # (B, 3, 4, 1, 1, 1)
    w, h, d = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64, device=volume.device) for size in sizes),
        indexing="ij",
    )
    grid = []
    inside = torch.ones(1, dtype=torch.bool, device=volume.device)
    for axis, size in enumerate(sizes):
        row = maps[:, axis]
        place = row[:, 0] * w + row[:, 1] * h + row[:, 2] * d + row[:, 3]  # (B, W, H, D)
        inside = inside & (place >= -0.5) & (place < size - 0.5)
        grid.append(((2 * place + 1) / size - 1).float())
    copies = F.grid_sample(
        volume.float(), torch.stack(grid[::-1], -1), padding_mode="border", align_corners=False
    )
    smallest = volume.float().amin((2, 3, 4), keepdim=True)
    return torch.where(inside[:, None], copies, smallest)
