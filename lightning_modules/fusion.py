"""One encoder for several contrasts of a scan, of which some may be missing."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Axes: B = batch; C = contrasts; F = features; W, H, D = voxels along R, A, S.


def mean_over_contrasts(
    encode: Callable[[Tensor], Tensor],
    volume: Float[Tensor, "b c w h d"],
    contrast_dropout: float = 0.0,
) -> Float[Tensor, "b f_and_c"]:
    """Encode each contrast by itself, and average the features over those that are there.

    Which are there stands next to the mean, as 0 and 1: otherwise a scan with one contrast would
    look like one in which all contrasts show the same.

    Args:
        encode: Turns volumes of one channel, (N, 1, W, H, D), into features, (N, F).
        volume: Contrasts as channels; one that is missing is NaN.
        contrast_dropout: Share of the scans that lose one of several contrasts.
    """
    present = ~volume[:, :, 0, 0, 0].isnan()  # (B, C)
    if contrast_dropout:
        present = present & ~_dropped(present, contrast_dropout)
    if torch.compiler.is_compiling():  # in an exported graph no shape depends on the data
        flat = volume.flatten(0, 1)[:, None].nan_to_num(0.0)  # (B C, 1, W, H, D)
        total = (encode(flat).unflatten(0, volume.shape[:2]) * present[..., None]).sum(1)
    else:  # encode what is there alone: a norm measures nothing else
        features = encode(volume[present][:, None])
        total = features.new_zeros(len(volume), features.shape[1])
        total = total.index_add(0, present.nonzero()[:, 0], features)
    mean = total / present.sum(1, keepdim=True)
    return torch.cat([mean, present.to(mean.dtype)], 1)


def _dropped(present: Tensor, share: float) -> Tensor:
    """One contrast of some of the scans that have several, drawn at random, (B, C)."""
    chance = torch.rand(present.shape, device=present.device) * present
    drawn = chance == chance.amax(1, keepdim=True)
    loses = torch.rand(len(present), 1, device=present.device) < share
    return drawn & loses & (present.sum(1, keepdim=True) > 1)
