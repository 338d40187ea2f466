"""Restore patches whose blocks are hidden and whose intensities are changed.

Masking and a random intensity curve, as in Models Genesis (Zhou et al. 2021,
doi 10.1016/j.media.2020.101840); all voxels are restored, not the hidden ones alone.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lightning_modules.pretraining.autoencoder import Autoencoder
from lightning_modules.pretraining.intensity_changes import (
    RISING_CURVE,
    IntensityChanges,
    change_intensity,
)
from lightning_modules.pretraining.patch_pretraining import NOT_PLAIN

# Axes: B = batch; C = 1 channel; W, H, D = voxels along R, A, S.


class Masked(Autoencoder):
    """Restore patches from what is left of them.

    Args:
        hidden_share: Share of the blocks that are hidden, in (0, 1).
        block: Voxels of a block along each axis.
        intensity: How the intensities of the input are changed.
        autoencoder: What an autoencoder has, see Autoencoder.
    """

    def __init__(
        self,
        hidden_share: float = 0.6,
        block: int = 4,
        intensity: IntensityChanges = RISING_CURVE,
        **autoencoder: Any,
    ) -> None:
        super().__init__(**autoencoder)
        self.save_hyperparameters(ignore=NOT_PLAIN)
        self.intensity = intensity

    @override
    def damage(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b 1 w h d"]:
        changed = change_intensity(super().damage(volume), self.intensity)
        return hide_blocks(changed, self.hparams["hidden_share"], self.hparams["block"])

    @override
    def pictures(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        damaged = self.damage(volume)
        return {"original": volume, "as seen": damaged, "restored": self(damaged)}


def hide_blocks(
    volume: Float[Tensor, "b c w h d"], hidden_share: float, block: int
) -> Float[Tensor, "b c w h d"]:
    """Set random blocks of each volume to 0, the training set's mean.

    Args:
        volume: Volumes, (B, C, W, H, D).
        hidden_share: Share of the blocks that are hidden, in (0, 1).
        block: Voxels of a block along each axis; blocks at the end of an axis may be cut.

    Raises:
        ValueError: If the share or the block is out of range.
    """
    if not (0 < hidden_share < 1 and block >= 1):
        raise ValueError(
            f"hidden_share is {hidden_share} and block {block}: set a share between 0 and 1, and a "
            "block of 1 voxel or more."
        )
    sizes = volume.shape[2:]
    counts = [-(-size // block) for size in sizes]
    seen = torch.rand(len(volume), 1, *counts, device=volume.device) >= hidden_share
    for axis in (2, 3, 4):
        seen = seen.repeat_interleave(block, axis)
    return volume * seen[:, :, : sizes[0], : sizes[1], : sizes[2]]
