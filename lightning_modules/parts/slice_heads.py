"""From the features of slices to what the head sees: one by one, weighed, or read in order."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

# Axes: B = batch; S = slices; F, G = features; N = sequences.

Aggregation = Literal["mean", "vote", "attention", "lstm", "gru", "transformer"]
NUM_HEADS = 4
NUM_LAYERS = 2
LONGEST_WAVE = 10_000  # of the positions, as in Vaswani et al. 2017


class Attention(nn.Sequential):
    """The mean of the slices' features, with learned weights (Ilse et al. 2018).

    Args:
        num_features: Features of a slice.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(nn.Linear(num_features, 64), nn.Tanh(), nn.Linear(64, 1, bias=False))
        self.num_outputs = num_features

    def shares(self, features: Float[Tensor, "b s f"]) -> Float[Tensor, "b s 1"]:
        """Compute the weight of each slice; those of a scan add up to 1."""
        return super().forward(features).softmax(1)

    @override
    def forward(self, features: Float[Tensor, "b s f"]) -> Float[Tensor, "b s2 f"]:
        return (self.shares(features) * features).sum(1, keepdim=True)


class Separate(Attention):
    """Each slice by itself; has the layers of `Attention`, frozen, so that checkpoints fit both."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.requires_grad_(False)

    @override
    def forward(self, features: Float[Tensor, "b s f"]) -> Float[Tensor, "b s2 f"]:
        return features


class InOrder(nn.Module):
    """Slices read in their order, one sequence after the other: of each plane and contrast.

    Args:
        reader: Turns sequences (N, S, F) into rows (N, G), G being its `num_outputs`.
        length: Slices of a sequence.
    """

    def __init__(self, reader: "Recurrent | Transformer", length: int) -> None:
        super().__init__()
        self.reader = reader
        self.length = length
        self.num_outputs = reader.num_outputs

    @override
    def forward(self, features: Float[Tensor, "b s f"]) -> Float[Tensor, "b s2 g"]:
        sequences = features.unflatten(1, (-1, self.length))
        return self.reader(sequences.flatten(0, 1)).unflatten(0, sequences.shape[:2])


class Recurrent(nn.Module):
    """An LSTM or GRU that reads both ways: what it knows at either end.

    Args:
        name: 'lstm' or 'gru'.
        num_features: Features of a slice.
        nodes: Nodes of each way.
    """

    def __init__(self, name: Literal["lstm", "gru"], num_features: int, nodes: int) -> None:
        super().__init__()
        made = nn.LSTM if name == "lstm" else nn.GRU
        self.cell = made(num_features, nodes, batch_first=True, bidirectional=True)
        self.num_outputs = 2 * nodes

    @override
    def forward(self, sequences: Float[Tensor, "n s f"]) -> Float[Tensor, "n g"]:
        onward, back = self.cell(sequences)[0].chunk(2, 2)
        return torch.cat([onward[:, -1], back[:, 0]], 1)


class Transformer(nn.Module):
    """Two layers of self-attention over slices with their positions; the mean of the outputs.

    Args:
        num_features: Features of a slice.
        nodes: Width, a multiple of 4.
        length: Slices of a sequence.

    Raises:
        ValueError: If the width cannot be divided among the heads.
    """

    positions: Tensor

    def __init__(self, num_features: int, nodes: int, length: int) -> None:
        super().__init__()
        if nodes % NUM_HEADS:
            raise ValueError(
                f"sequence_nodes is {nodes}; a transformer needs a multiple of {NUM_HEADS}."
            )
        self.project = nn.Linear(num_features, nodes)
        layer = nn.TransformerEncoderLayer(
            nodes, NUM_HEADS, 2 * nodes, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, NUM_LAYERS, nn.LayerNorm(nodes), enable_nested_tensor=False
        )
        self.register_buffer("positions", sinusoids(length, nodes), persistent=False)
        self.num_outputs = nodes

    @override
    def forward(self, sequences: Float[Tensor, "n s f"]) -> Float[Tensor, "n g"]:
        return self.layers(self.project(sequences) + self.positions).mean(1)


def build_slice_head(
    name: Aggregation, num_features: int, nodes: int, length: int
) -> Attention | InOrder:
    """Build what turns the features of slices into those of slices, sequences or scans.

    Args:
        name: 'mean' and 'vote' leave the slices to the head; 'attention' makes one of all; 'lstm',
            'gru' and 'transformer' make one of each sequence.
        num_features: Features of a slice.
        nodes: Nodes of those that read in order.
        length: Slices of a sequence.
    """
    match name:
        case "mean" | "vote":
            return Separate(num_features)
        case "attention":
            return Attention(num_features)
        case "transformer":
            return InOrder(Transformer(num_features, nodes, length), length)
        case _:
            return InOrder(Recurrent(name, num_features, nodes), length)


def sinusoids(length: int, width: int) -> Float[Tensor, "s g"]:
    """Code positions as sines and cosines of slower and slower waves (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(LONGEST_WAVE) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
