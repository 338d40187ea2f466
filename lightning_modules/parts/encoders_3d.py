"""Encoders of MONAI's segmentation networks; the means of their last maps are the features."""

from collections.abc import Sequence

from jaxtyping import Float
from monai.networks.nets import MedNeXt, SegResNet, ViT
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn
from typing_extensions import override

# Axes: B = batch; C = channels; F = features.

MEDNEXT: dict[str, tuple] = {  # expansion and blocks of the stages, and of the last one
    "mednext-s": (2, (2, 2, 2, 2), 2, 2),
    "mednext-b": ((2, 3, 4, 4), (2, 2, 2, 2), 4, 2),
    "mednext-m": ((2, 3, 4, 4), (3, 4, 4, 4), 4, 4),
    "mednext-l": ((3, 4, 8, 8), (3, 4, 8, 8), 8, 8),
}


class SwinEncoder(SwinTransformer):
    """Swin transformer of SwinUNETR (Hatamizadeh et al. 2022)."""

    def __init__(self, shape: Sequence[int], channels: int) -> None:
        window, patch, dims = [7] * len(shape), [2] * len(shape), len(shape)
        heads = (3, 6, 12, 24)
        super().__init__(channels, 48, window, patch, (2, 2, 2, 2), heads, spatial_dims=dims)

    @override
    def forward(
        self, x: Float[Tensor, "b c *sizes"], normalize: bool = True
    ) -> Float[Tensor, "b f"]:
        return super().forward(x, normalize)[-1].flatten(2).mean(2)


class SegResNetEncoder(SegResNet):
    """Residual encoder of SegResNet (Myronenko 2018)."""

    def __init__(self, shape: Sequence[int], channels: int) -> None:
        super().__init__(len(shape), init_filters=16, in_channels=channels)
        del self.up_layers, self.up_samples, self.conv_final

    @override
    def forward(self, volume: Float[Tensor, "b c *sizes"]) -> Float[Tensor, "b f"]:
        return self.encode(volume)[0].flatten(2).mean(2)


class MedNeXtEncoder(MedNeXt):
    """Encoder of MedNeXt (Roy et al. 2023), of one of its four sizes."""

    def __init__(self, shape: Sequence[int], channels: int, name: str) -> None:
        expansion, blocks, last_expansion, last_blocks = MEDNEXT[name]
        super().__init__(
            len(shape),
            in_channels=channels,
            encoder_expansion_ratio=expansion,
            bottleneck_expansion_ratio=last_expansion,
            kernel_size=3,
            use_residual_connection=True,
            blocks_down=blocks,
            blocks_bottleneck=last_blocks,
        )
        del self.up_blocks, self.dec_stages, self.out_0

    @override
    def forward(self, volume: Float[Tensor, "b c *sizes"]) -> Float[Tensor, "b f"]:
        maps = self.stem(volume)
        for stage, smaller in zip(self.enc_stages, self.down_blocks, strict=True):
            maps = smaller(stage(maps))
        return self.bottleneck(maps).flatten(2).mean(2)


class UNETREncoder(ViT):
    """Vision transformer of UNETR (Hatamizadeh et al. 2021); the mean of its tokens."""

    def __init__(self, shape: Sequence[int], channels: int) -> None:
        patch = [patch_size(size) for size in shape]
        super().__init__(channels, shape, patch, proj_type="conv", spatial_dims=len(shape))
        for block in self.blocks:
            block.norm_cross_attn = nn.Identity()  # never called: DDP would wait for its gradient

    @override
    def forward(self, volume: Float[Tensor, "b c *sizes"]) -> Float[Tensor, "b f"]:
        return super().forward(volume)[0].mean(1)


def build_encoder(name: str, shape: Sequence[int], channels: int) -> tuple[nn.Module, int]:
    """Build an encoder with random weights.

    Args:
        name: 'swin', 'segresnet', 'unetr', or 'mednext-s', '-b', '-m' or '-l'.
        shape: Voxels of a volume along R, A, S, or pixels of a picture.
        channels: Channels of a volume.

    Returns:
        The encoder, (B, C, ...) to (B, F), and F.

    Raises:
        ValueError: If MedNeXt has no such size, or UNETR cannot cut the volume into patches.
    """
    match name:
        case "swin":
            return SwinEncoder(shape, channels), 768
        case "segresnet":
            return SegResNetEncoder(shape, channels), 128
        case "unetr":
            return UNETREncoder(shape, channels), 768
        case _ if name in MEDNEXT:
            return MedNeXtEncoder(shape, channels, name), 512
    raise ValueError(f"Backbone {name!r} is none of swin, segresnet, unetr, {', '.join(MEDNEXT)}.")


def patch_size(size: int) -> int:
    """Find the patches of a vision transformer: the greatest divisor of an axis up to 16.

    Raises:
        ValueError: If there is none of 4 or more.
    """
    patch = max(divisor for divisor in range(1, 17) if size % divisor == 0)
    if patch < 4:
        raise ValueError(
            f"Backbone 'vit' cannot cut an axis of {size} voxels into patches of 4 to 16. Set "
            "--data.preprocessing.spatial_shape to multiples of 16 or 8."
        )
    return patch
