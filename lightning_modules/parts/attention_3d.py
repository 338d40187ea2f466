"""Attention to channels and places of an encoder's maps; maps keep their shape."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

# Axes: B = batch; F = maps; W, H, D = voxels along R, A, S.

AttentionName = Literal["none", "se", "cbam", "self"]
REDUCTION = 2  # of the maps, between the two layers that weigh them
NUM_TAPS = 7  # of the convolution that weighs places, along each axis (Woo et al. 2018)
NUM_HEADS = 4
MOST_VOXELS = 4096  # that are compared with each other


class ConvolutionalAttention(nn.Module):
    """CBAM (Woo et al. 2018): weights of the maps, then weights of the places.

    Args:
        num_maps: F.
    """

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        hidden = max(num_maps // REDUCTION, 1)
        self.channels = nn.Sequential(
            nn.Linear(num_maps, hidden), nn.ReLU(), nn.Linear(hidden, num_maps)
        )
        self.places = nn.Conv3d(2, 1, NUM_TAPS, padding=NUM_TAPS // 2, bias=False)

    @override
    def forward(self, maps: Float[Tensor, "b f w h d"]) -> Float[Tensor, "b f w h d"]:
        flat = maps.flatten(2)
        weight = self.channels(flat.mean(2)) + self.channels(flat.amax(2))
        maps = maps * weight.sigmoid()[..., None, None, None]
        seen = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], 1)
        return maps * self.places(seen).sigmoid()


class SelfAttention(nn.Module):
    """Each voxel sees all voxels; what it sees is added, and starts at nothing (Wang et al. 2018).

    Args:
        num_maps: F, a multiple of 4.
        shape: Voxels of the maps along R, A, S.

    Raises:
        ValueError: If the maps cannot be divided among the heads, or have too many voxels.
    """

    def __init__(self, num_maps: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        num_voxels = int(torch.tensor(shape).prod())
        if num_maps % NUM_HEADS or num_voxels > MOST_VOXELS:
            raise ValueError(
                f"attention is self, and the encoder's maps are {num_maps} of {num_voxels} voxels: "
                f"set filters to a multiple of {NUM_HEADS}, and raise depth or pool until there "
                f"are at most {MOST_VOXELS} voxels."
            )
        self.norm = nn.LayerNorm(num_maps)
        self.heads = nn.MultiheadAttention(num_maps, NUM_HEADS, batch_first=True)
        nn.init.zeros_(self.heads.out_proj.weight)

    @override
    def forward(self, maps: Float[Tensor, "b f w h d"]) -> Float[Tensor, "b f w h d"]:
        tokens = self.norm(maps.flatten(2).transpose(1, 2))  # (B, W H D, F)
        found = self.heads(tokens, tokens, tokens, need_weights=False)[0]
        return maps + found.transpose(1, 2).unflatten(2, maps.shape[2:])


def build_attention(name: AttentionName, num_maps: int, shape: tuple[int, ...]) -> nn.Module:
    """Build what stands between an encoder and its readout.

    Args:
        name: 'none' leaves the maps; 'se' weighs them (squeeze and excitation, Hu et al. 2018);
            'cbam' weighs maps and places; 'self' lets each voxel see all others.
        num_maps: Maps of the encoder.
        shape: Their voxels along R, A, S.
    """
    match name:
        case "none":
            return nn.Identity()
        case "se":
            from monai.networks.blocks import ChannelSELayer  # takes seconds, and few runs need it

            return ChannelSELayer(3, num_maps, r=min(REDUCTION, num_maps))
        case "cbam":
            return ConvolutionalAttention(num_maps)
        case "self":
            return SelfAttention(num_maps, shape)
