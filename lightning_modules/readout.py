"""From the maps of an encoder to the numbers that a head sees."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

# Axes: B = batch; F = filters; W, H, D = voxels along R, A, S.

ReadoutName = Literal["flatten", "mean", "max", "mean_max", "flatten_max"]


class Readout(nn.Module):
    """Turn maps into one row of numbers for each scan.

    Args:
        name: 'flatten' is every voxel of every map (MCTL §3.3); 'mean' and 'max' are one number of
            each map; 'mean_max' and 'flatten_max' put two of these next to each other.
    """

    def __init__(self, name: ReadoutName) -> None:
        super().__init__()
        self.parts = name.split("_")

    @override
    def forward(self, maps: Float[Tensor, "b f *sizes"]) -> Float[Tensor, "b n"]:
        """Compute the rows."""
        flat = maps.flatten(2) if maps.ndim > 2 else maps[..., None]  # (B, F, W * H * D)
        found = {
            "flatten": lambda: flat.flatten(1),
            "mean": lambda: flat.mean(2),
            "max": lambda: flat.amax(2),
        }
        return torch.cat([found[part]() for part in self.parts], dim=1)

    def num_features(self, num_maps: int, shape: tuple[int, ...]) -> int:
        """Count the numbers of a row.

        Args:
            num_maps: Number of maps.
            shape: Their voxels along R, A, S.
        """
        with torch.device("meta"):
            return self(torch.empty(1, num_maps, *shape)).shape[1]
