"""LoRA: a frozen network that learns low-rank updates of its linear layers (Hu et al. 2022)."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override

# Axes: O = outputs and I = inputs of a layer.

FROZEN = ".parametrizations.weight.original"  # ends of names in a checkpoint
UPDATE = ".parametrizations.weight.0."


class LowRank(nn.Module):
    """A weight and its update, the product of two thin matrices that starts at 0.

    Args:
        layer: The layer whose weight it is.
        rank: Columns of the one matrix, rows of the other.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as torch draws a linear layer

    @override
    def forward(self, weight: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
        return weight + self.up @ self.down


def freeze_or_adapt(network: nn.Module, frozen: bool, rank: int) -> None:
    """Freeze a network, or let it learn: all of it, or low-rank updates of its linear layers.

    Args:
        network: The encoder.
        frozen: Whether nothing of it learns.
        rank: Rank of the updates; 0 is none.

    Raises:
        ValueError: If the rank cannot be, or the network has no linear layer.
    """
    network.requires_grad_(not (frozen or rank))
    if rank == 0:
        return
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if rank < 0 or frozen:
        raise ValueError(
            f"lora_rank is {rank} and freeze_encoder {frozen}: set the rank to 1 or more and "
            "freeze_encoder to false, or the rank to 0."
        )
    if not layers:
        raise ValueError(
            f"lora_rank is {rank}, but the backbone has no linear layer to adapt. Choose a "
            "transformer, such as vit_tiny_patch16_224 (in 3D vit), or set lora_rank to 0."
        )
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer, rank))


def with_updates(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights of a plain network the names of one with updates, which stay as they are.

    Args:
        found: Weights of a file, by name.
        wanted: Weights of the network that they are for; without updates nothing changes.
    """
    named = dict(found)
    for name in wanted:
        plain = name.replace(FROZEN, ".weight")
        if plain != name and plain in found:
            named[name] = named.pop(plain)
            for update in (name.replace(FROZEN, UPDATE + part) for part in ("down", "up")):
                named.setdefault(update, wanted[update])
    return named
