"""Random changes of intensity, in batches: other scanners and contrasts of the same anatomy."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LEVELS = 256  # of a curve; the cache's float16 has about as many between two powers of 2
KNOTS = 6  # of a curve, evenly spaced; straight lines in between
BIAS_KNOTS = 3  # of a bias field along each axis
# Axes: B = batch; C = channels; W, H, D = voxels along R, A, S.


@dataclass(frozen=True)
class IntensityChanges:
    """How much the intensities of a patch may change; each patch draws its own, 0 is no change.

    Intensities count from the batch's least, 0, to its greatest, 1. The least stays the least in
    every curve: air gives no signal in any contrast.

    Args:
        curve: Share of a random curve in the mixture with the identity, up to 1.
        non_monotone: Share of the patches whose curve may fall, as from one contrast to another
            (T1 to T2); the others' curves rise.
        log_gamma: Largest exponent g of a gamma curve, intensity ** exp(±g).
        bias_field: Largest logarithm of a smooth field that multiplies, either way.
        blur: Largest share that a voxel takes from each neighbour along an axis, up to 1/3; s is
            a standard deviation of sqrt(2 s) voxels.
        noise_std: Largest standard deviation of Gaussian noise.

    Raises:
        ValueError: If a share is out of its range.
    """

    curve: float = 1.0
    non_monotone: float = 0.5
    log_gamma: float = 0.4
    bias_field: float = 0.3
    blur: float = 0.3
    noise_std: float = 0.1

    def __post_init__(self) -> None:
        shares = {"curve": 1, "non_monotone": 1, "blur": 1 / 3}
        for name, most in shares.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; set it to 0 to {most:.3g}.")


RISING_CURVE = IntensityChanges(
    curve=0.5, non_monotone=0, log_gamma=0, bias_field=0, blur=0, noise_std=0
)


def change_intensity(
    volume: Float[Tensor, "b c w h d"], changes: IntensityChanges
) -> Float[Tensor, "b c w h d"]:
    """Change the intensities of each volume in another way.

    Args:
        volume: Volumes, (B, C, W, H, D).
        changes: How much.
    """
    low, high = volume.amin(), volume.amax()
    span = (high - low).clamp(min=1e-6)
    level = ((volume - low) * ((LEVELS - 1) / span)).round_().long()
    curves = _curves(len(volume), changes, volume.device)  # (B, LEVELS)
    changed = curves.gather(1, level.flatten(1)).view_as(volume)
    if changes.bias_field:
        field = _uniform(len(volume), changes.bias_field, volume.device, *[BIAS_KNOTS] * 3)
        size = volume.shape[2:]
        field = F.interpolate(field, size=size, mode="trilinear", align_corners=True)
        changed = changed * field.exp_()
    if changes.blur:
        changed = _blur(changed, torch.rand(len(volume), device=volume.device) * changes.blur)
    if changes.noise_std:
        std = torch.rand(len(volume), 1, 1, 1, 1, device=volume.device) * changes.noise_std
        changed = changed + std * torch.randn_like(changed)
    return changed * span + low


def _curves(num: int, changes: IntensityChanges, device: torch.device) -> Float[Tensor, "b levels"]:
    """Draw curves from 0 to 1, each a row of LEVELS values that begins with 0."""
    steps = -torch.rand(num, KNOTS - 1, device=device).clamp(min=1e-6).log()
    rising = (steps / steps.sum(1, keepdim=True)).cumsum(1)
    anyhow = torch.rand(num, KNOTS - 1, device=device)
    falls = torch.rand(num, 1, device=device) < changes.non_monotone
    knots = F.pad(torch.where(falls, anyhow, rising), (1, 0))[:, None]  # (B, 1, KNOTS)
    curve = F.interpolate(knots, size=LEVELS, mode="linear", align_corners=True)[:, 0]
    identity = torch.linspace(0, 1, LEVELS, device=device)
    mixed = identity + changes.curve * (curve - identity)
    gamma = _uniform(num, changes.log_gamma, device).view(num, 1).exp()
    return mixed.clamp_(0, 1) ** gamma


def _blur(volume: Float[Tensor, "b c w h d"], share: Float[Tensor, " b"]) -> Tensor:
    """Mix each voxel with its two neighbours along each axis; the border repeats."""
    share = share.view(-1, 1, 1, 1, 1)
    for axis in (2, 3, 4):
        size = volume.shape[axis]
        first, last = volume.narrow(axis, 0, 1), volume.narrow(axis, size - 1, 1)
        before = torch.cat([first, volume.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([volume.narrow(axis, 1, size - 1), last], axis)
        volume = volume + share * (before + after - 2 * volume)
    return volume


def _uniform(num: int, most: float, device: torch.device, *size: int) -> Tensor:
    """Draw from -most to most, (B, 1, *size)."""
    return (2 * torch.rand(num, 1, *size, device=device) - 1) * most
