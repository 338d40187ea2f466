"""The convolutional encoder that autoencoder and classifier share (MCTL §3.3, Table 1)."""

import logging
from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_modules.pooled_convolution import can_pool_at_once, pooled_convolution

logger = logging.getLogger(__name__)
Norm = Literal["none", "instance", "batch", "group"]
CHANNELS_PER_GROUP = 4


class Encoder(nn.Sequential):
    """A chain of convolutions, each with max-pooling, perhaps a norm, and ReLU.

    Of pictures, volumes of one voxel along an axis, the kernels and the pooling have one along it
    as well: 3 × 3 × 1. The norm comes after the pooling, where it has an eighth of the voxels.

    Args:
        depth: Number of convolutions (1–3 in the paper).
        filters: Filters of each convolution (16, 32 or 64 in the paper).
        pool: Pooling factor after each convolution; 1 is the paper's network taken literally.
        norm: Normalisation of what each pooling keeps; the paper has none.
        channels: Channels of a volume.
        spatial_shape: Voxels of a volume along R, A, S, where pictures are possible.
        kernel_size: Voxels of a filter along each axis (3 in the paper); odd.

    Raises:
        ValueError: If the kernel size is not odd.
    """

    def __init__(
        self,
        depth: int,
        filters: int,
        pool: int = 2,
        norm: Norm = "none",
        channels: int = 1,
        spatial_shape: Sequence[int] = (),
        kernel_size: int = 3,
    ) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; set it to 3, 5 or another odd number.")
        flat = [size == 1 for size in spatial_shape or (0, 0, 0)]
        kernel: Any = tuple(1 if one else kernel_size for one in flat)
        padding: Any = tuple(taps // 2 for taps in kernel)
        pools = tuple(1 if one else pool for one in flat)
        super().__init__(
            *(
                _Block(
                    nn.Conv3d(filters if level else channels, filters, kernel, padding=padding),
                    nn.MaxPool3d(pools, ceil_mode=True),  # thin patches never vanish
                    _norm(norm, filters),
                    nn.ReLU(),  # the same values as before the pooling, on an eighth of them
                )
                for level in range(depth)
            )
        )
        self.to(memory_format=torch.channels_last_3d)  # 1.4 to 1.7 times as fast on a CPU
        self.pool = pool
        self.flat = flat
        self.kernel_size = kernel_size
        self.num_features = filters

    def output_shape(self, spatial_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Voxels of the maps along R, A, S: each pooling divides by `pool`, rounding up."""
        return tuple(_pooled(size, self.pool, len(self)) for size in spatial_shape)

    def forward(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f w2 h2 d2"]:
        """Encode volumes of any shape; each pooling divides W, H, D by `pool`, rounding up."""
        return super().forward(volume)

    def untrained_weights(self, spatial_shape: Sequence[int]) -> str:
        """Say which weights get no gradient because a volume is too thin, '' if all can get one.

        Where pooling has left one voxel of an axis, all taps along it but one see the border of
        zeros alone.

        Args:
            spatial_shape: Voxels of a volume or patch along R, A, S.
        """
        pool, sizes = self.pool, list(spatial_shape)
        for number in range(1, len(self) + 1):
            axes = zip("RAS", sizes, self.flat, strict=True)
            if thin := [axis for axis, size, flat in axes if size == 1 and not flat]:
                needed = next(n for n in count(2) if _pooled(n, pool, len(self) - 1) > 1)
                shape = " × ".join(str(size) for size in spatial_shape)
                return (
                    f"{shape} voxels are too thin for depth {len(self)} and pool {pool}: "
                    f"convolution {number} sees 1 voxel along {' and '.join(thin)}, and "
                    f"{1 - float(self.kernel_size) ** -len(thin):.0%} of its weights get no "
                    f"gradient. Take at least {needed} voxels along each axis, or lower "
                    "--model.depth or --model.pool."
                )
            sizes = [_pooled(size, pool, 1) for size in sizes]
        return ""


def warn_if_thin(encoder: Encoder, spatial_shape: Sequence[int], what: str) -> None:
    """Log which weights get no gradient, if there are any.

    Args:
        encoder: The encoder.
        spatial_shape: Voxels of what it is trained on along R, A, S.
        what: What that is called, 'Scans' or 'Patches'.
    """
    if untrained := encoder.untrained_weights(spatial_shape):
        logger.warning("warning: %s of %s", what, untrained)


def _pooled(size: int, pool: int, times: int) -> int:
    """Voxels of an axis after pooling, rounded up."""
    for _ in range(times):
        size = -(-size // pool)
    return size


class _Block(nn.Sequential):
    """Convolution, pooling, norm and ReLU; on a CPU in one pass where it can be.

    Maps of what a trained network sees hook its layers, which are then taken one by one.
    """

    def forward(self, volume: Tensor) -> Tensor:
        layers: Any = self
        convolution, pooling, norm, relu = layers
        hooked = any(layer._forward_hooks or layer._backward_hooks for layer in layers)
        if hooked or not can_pool_at_once(volume, convolution, pooling):
            return super().forward(volume)
        plain = isinstance(norm, nn.Identity)
        maxima = pooled_convolution(volume, convolution.weight, convolution.bias, relu=plain)
        return maxima if plain else relu(norm(maxima))


def _norm(norm: Norm, filters: int) -> nn.Module:
    match norm:
        case "none":
            return nn.Identity()
        case "instance":
            return nn.InstanceNorm3d(filters, affine=True)
        case "batch":
            return nn.BatchNorm3d(filters)
        case "group":
            return nn.GroupNorm(max(filters // CHANNELS_PER_GROUP, 1), filters)
