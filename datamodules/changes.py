"""Augmented copies of a batch of volumes.

What makes a copy is drawn for each scan from its own seed, and done in batches where the batch is:
rotation, shift, scale and mirroring as one map of voxels, gamma and noise on tensors. Elastic
deformations, bias fields and transforms that are named in YAML are TorchIO's, scan by scan.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torchio as tio
from jaxtyping import Float
from torch import Tensor

from datamodules.augmentation import Augmentation
from datamodules.batches.warp import voxel_map, warp

# Axes: B = batch; C = channels; W, H, D = voxels along R, A, S.


SLAB = 32  # voxels


class Change(NamedTuple):
    """What makes one copy.

    scale: size of the copy; degrees: rotation about R, A, S, (3,); shift_mm: along R, A, S, (3,);
    flips: whether it is mirrored along R, A, S, (3,); gamma: exponent of its intensities;
    noise_std: standard deviation of its noise; noise_seed: seed of its noise.
    """

    scale: float
    degrees: np.ndarray
    shift_mm: np.ndarray
    flips: np.ndarray
    gamma: float
    noise_std: float
    noise_seed: int


class Changes(NamedTuple):
    """What makes the copies of a batch.

    voxel_maps: see `warp.voxel_map`, float64 (B, 3, 4); gammas: exponents, float32 (B,), or None;
    noises: standard deviation and seed, B of them, or none. The last stay on the CPU.
    """

    voxel_maps: Tensor
    gammas: Tensor | None
    noises: list[tuple[float, int]]


def draw_change(augmentation: Augmentation, seed: int) -> Change:
    """Draw what makes one copy.

    Each number is drawn whether it is used or not: what is switched on changes no other draw.
    """
    generator = np.random.default_rng(seed)
    turn, shift, (growth, tone, _) = generator.uniform(-1, 1, (3, 3))
    flips = (generator.random(3) < 0.5) & np.isin(range(3), augmentation.flip_axes)
    return Change(
        1 + float(growth) * augmentation.scale,
        turn * augmentation.degrees,
        shift * augmentation.translation_mm,
        flips,
        float(np.exp(tone * augmentation.log_gamma)),
        generator.random() * augmentation.noise_std,
        int(generator.integers(2**31)),
    )


def draw_changes(
    spacings_mm: np.ndarray,
    augmentation: Augmentation,
    seeds: Sequence[int],
    spatial_shape: Sequence[int],
) -> Changes:
    """Draw what makes one copy for each seed.

    Args:
        spacings_mm: Voxel sizes in mm, (B, 3).
        augmentation: What may change.
        seeds: Decide every random choice, (B,).
        spatial_shape: Voxels along R, A, S.
    """
    drawn = [draw_change(augmentation, seed) for seed in seeds]
    maps = [
        voxel_map(each.scale, each.degrees, each.shift_mm, each.flips, spacing_mm, spatial_shape)
        for each, spacing_mm in zip(drawn, spacings_mm, strict=True)
    ]
    return Changes(
        torch.from_numpy(np.array(maps)),
        torch.tensor([each.gamma for each in drawn]) if augmentation.log_gamma else None,
        [each[-2:] for each in drawn] if augmentation.noise_std else [],
    )


def apply_changes(
    volume: Float[Tensor, "b c w h d"], changes: Changes
) -> Float[Tensor, "b c w h d"]:
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


def apply_torchio(
    volume: Float[Tensor, "b c w h d"],
    spacings_mm: np.ndarray,
    augmentation: Augmentation,
    seeds: Sequence[int],
) -> Float[Tensor, "b c w h d"]:
    """Do what only TorchIO does, float32; the volumes as they are if that is nothing.

    Args:
        volume: Preprocessed volumes.
        spacings_mm: Voxel sizes in mm, (B, 3).
        augmentation: What may change.
        seeds: Decide every random choice, (B,); torch's own generator is left as it was.

    Raises:
        ValueError: If a named transform changes the shape.
    """
    if not augmentation.by_torchio:
        return volume
    transform, copies = tio.Compose(augmentation.by_torchio), torch.empty(volume.shape)
    is_flat = volume.shape[-1] == 1
    if is_flat:  # a picture as a slab: what moves out of its plane meets itself
        volume = volume.expand(*volume.shape[:-1], SLAB)
    for scan, copy, mm, seed in zip(volume.float().cpu(), copies, spacings_mm, seeds, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = transform(tio.ScalarImage(tensor=scan, affine=np.diag([*mm, 1.0]))).data
        if made.shape != scan.shape:
            raise ValueError(
                f"The transforms make volumes of {tuple(made.shape[1:])} voxels out of "
                f"{tuple(scan.shape[1:])}. Leave out of --data.augmentation.transforms those that "
                "change the shape."
            )
        copy.copy_(made[..., SLAB // 2, None] if is_flat else made)
    return copies.to(volume.device)


def make_copies(
    volume: Float[Tensor, "b c w h d"],
    spacings_mm: np.ndarray,
    augmentation: Augmentation,
    seeds: Sequence[int],
) -> Float[Tensor, "b c w h d"]:
    """Make one copy of each volume, float32, whatever is switched on.

    Args:
        volume: Preprocessed volumes.
        spacings_mm: Voxel sizes in mm, (B, 3).
        augmentation: What may change.
        seeds: Decide every random choice, (B,).
    """
    volume = apply_torchio(volume, spacings_mm, augmentation, seeds)
    return apply_changes(volume, draw_changes(spacings_mm, augmentation, seeds, volume.shape[2:]))
