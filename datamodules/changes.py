"""Copies of a batch of volumes, with TorchIO's values for the same seeds.

What makes a copy is drawn for each scan on the CPU, as TorchIO would draw it, and done in batches
where the batch is: rotation, shift, scale and mirroring as one map of voxels, gamma and noise on
tensors. Bias fields and elastic deformations are left to TorchIO itself, scan by scan.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.augmentation import Augmentation, augment
from datamodules.batches.warp import voxel_map, warp

# Axes: B = batch; W, H, D = voxels along R, A, S.


class Changes(NamedTuple):
    """What makes the copies of a batch.

    voxel_maps: see `warp.voxel_map`, float64 (B, 3, 4); gammas: exponents, float32 (B,), or None;
    noises: standard deviation and seed, B of them, or none. The last stay on the CPU.
    """

    voxel_maps: Tensor
    gammas: Tensor | None
    noises: list[tuple[float, int]]


def draw_changes(
    spacings_mm: np.ndarray,
    augmentation: Augmentation,
    seeds: Sequence[int],
    spatial_shape: Sequence[int],
) -> Changes:
    """Draw what makes one copy for each seed, with TorchIO's draws.

    Args:
        spacings_mm: Voxel sizes in mm, (B, 3).
        augmentation: What may change; nothing that only TorchIO does.
        seeds: Decide every random choice, (B,).
        spatial_shape: Voxels along R, A, S.
    """
    assert not augmentation.by_torchio
    drawn = [
        _draw_change(spacing_mm, augmentation, seed, spatial_shape)
        for spacing_mm, seed in zip(spacings_mm, seeds, strict=True)
    ]
    voxel_maps, gammas, noises = zip(*drawn, strict=True)
    return Changes(
        torch.from_numpy(np.array(voxel_maps)),
        torch.tensor(gammas) if augmentation.log_gamma else None,
        list(noises) if augmentation.noise_std else [],
    )


def _draw_change(
    spacing_mm: np.ndarray, augmentation: Augmentation, seed: int, spatial_shape: Sequence[int]
) -> tuple[np.ndarray, float, tuple[float, int]]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high, generator=generator).item()

    def begin_transform() -> None:
        """Pass over the number by which a transform of TorchIO decides whether to act."""
        uniform(0, 1)

    affine = augmentation.draw_affine(generator)
    begin_transform()  # Compose
    begin_transform()  # Affine
    flips = np.zeros(3, dtype=bool)
    for axis in augmentation.flip_axes:
        begin_transform()  # RandomFlip
        if torch.rand(3, generator=generator)[axis] < 0.5:
            flips[axis] ^= True
            begin_transform()  # Flip
    gamma, noise = 1.0, (0.0, 0)
    if augmentation.log_gamma:
        begin_transform()  # RandomGamma
        gamma = float(np.exp(uniform(-augmentation.log_gamma, augmentation.log_gamma)))
        begin_transform()  # Gamma
    if augmentation.noise_std:
        begin_transform()  # RandomNoise
        uniform(0, 0)  # the noise's mean
        noise_std = uniform(0, augmentation.noise_std)
        noise = noise_std, int(torch.randint(0, 2**31, (1,), generator=generator))
    return voxel_map(*affine, flips, spacing_mm, spatial_shape), gamma, noise


def apply_changes(
    volume: Float[Tensor, "b 1 w h d"], changes: Changes
) -> Float[Tensor, "b 1 w h d"]:
    """Make the copies, float32, on the device where the volumes are.

    Args:
        volume: Preprocessed volumes.
        changes: What makes a copy of each; noise has other values on another kind of device.
    """
    copies = warp(volume, changes.voxel_maps)
    if changes.gammas is not None:
        copies = copies.sign() * copies.abs() ** changes.gammas[:, None, None, None, None]
    for copy, (std, seed) in zip(copies, changes.noises, strict=False):
        generator = torch.Generator(copy.device).manual_seed(seed)
        copy += std * torch.randn(copy.shape, generator=generator, device=copy.device)
    return copies


def make_copies(
    volume: Float[Tensor, "b 1 w h d"],
    spacings_mm: np.ndarray,
    augmentation: Augmentation,
    seeds: Sequence[int],
) -> Float[Tensor, "b 1 w h d"]:
    """Make one copy of each volume, float32, whatever is switched on.

    Args:
        volume: Preprocessed volumes.
        spacings_mm: Voxel sizes in mm, (B, 3).
        augmentation: What may change.
        seeds: Decide every random choice, (B,).
    """
    if augmentation.by_torchio:
        scans = zip(volume.float(), spacings_mm, seeds, strict=True)
        return torch.stack([augment(scan, mm, augmentation, seed) for scan, mm, seed in scans])
    changes = draw_changes(spacings_mm, augmentation, seeds, volume.shape[2:])
    return apply_changes(volume, changes)
