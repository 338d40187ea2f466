"""Several networks next to each other on the same input, their features fused."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

# Axes: B = batch; C = channels; F = features; N = networks.

Fuse = Literal["concat", "add"]
SEPARATOR = "+"  # between names of networks


class Branches(nn.Module):
    """Networks next to each other, whose features, or maps of the same size, become one.

    Args:
        networks: Each returns (B, F, ...), alone or as the first of several things.
        num_features: F of each.
        fuse: 'concat' puts features next to each other; 'add' projects each network's to as many
            as the smallest has, and adds them.
        scales: What the input of each network is multiplied by, and what is then added, (2, N, C);
            None leaves it.
    """

    scales: Tensor | None

    def __init__(
        self,
        networks: Sequence[nn.Module],
        num_features: Sequence[int],
        fuse: Fuse = "concat",
        scales: Float[Tensor, "2 n c"] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("scales", scales, persistent=False)
        self.num_features = sum(num_features) if fuse == "concat" else min(num_features)
        projected = num_features if fuse == "add" else ()
        self.projections = nn.ModuleList(nn.Linear(each, self.num_features) for each in projected)

    @override
    def forward(self, images: Float[Tensor, "b c *sizes"]) -> Float[Tensor, "b f *others"]:
        """Compute the fused features."""
        found = []
        for number, network in enumerate(self.networks):
            seen = images
            if self.scales is not None:
                factor, shift = self.scales[:, number].unflatten(1, (-1, *[1] * (images.ndim - 2)))
                seen = images * factor + shift
            features = network(seen)
            found.append(features[0] if isinstance(features, tuple) else features)
        if not self.projections:
            return torch.cat(found, 1)
        projected = [
            projection(features.movedim(1, -1)).movedim(-1, 1)
            for projection, features in zip(self.projections, found, strict=True)
        ]
        return torch.stack(projected).sum(0)


def has_branches(network: nn.Module) -> bool:
    """Whether a network, or one in it, is made of several next to each other."""
    return any(isinstance(part, Branches) for part in network.modules())


def one_for_each(names: Sequence[str], given: str | Sequence[str]) -> list[str]:
    """Give each network its weights: one word for all of them, or a list.

    Args:
        names: Names of the networks.
        given: 'imagenet' or 'none', or one of these or a file for each.

    Raises:
        ValueError: If their number is not that of the networks.
    """
    if given in ("imagenet", "none"):
        return [str(given)] * len(names)
    weights = [given] if isinstance(given, str) else list(given)
    if len(weights) != len(names):
        raise ValueError(
            f"{len(weights)} weights are given ({', '.join(weights)}) for {len(names)} networks "
            f"({', '.join(names)}). Give a list with one for each, such as '[a.pth, b.pth]'."
        )
    return weights
