"""Maps by captum: what each voxel, or each block of voxels, adds to a logit."""

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Attribution = Literal["integrated_gradients", "shap", "lime"]
NUM_STEPS = 32  # of a path from the blank volume to the scan
NUM_BLOCKS = 4  # supervoxels along each axis
NUM_SAMPLES = 256  # volumes of which some supervoxels are blank
AT_ONCE = 16


def attribution(
    model: nn.Module, volume: Float[Tensor, "1 c w h d"], k: int, kind: Attribution
) -> Float[Tensor, "w h d"]:
    """Compute how much each place adds to the logit of class k, summed over contrasts.

    Where a place is blank, it has the contrast's mean.

    Args:
        model: Computes logits from volumes.
        volume: One scaled volume.
        k: Index of the class.
        kind: 'integrated_gradients' (Sundararajan et al. 2017) by voxel; 'shap', Kernel SHAP
            (Lundberg and Lee 2017), and 'lime' (Ribeiro et al. 2016) by supervoxel.
    """
    from captum import attr  # takes seconds, few commands need it
    from captum._utils.models.linear_model import SkLearnRidge

    blank = volume.mean((2, 3, 4), keepdim=True).expand_as(volume)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "integrated_gradients":
            path = attr.IntegratedGradients(model)
            found = path.attribute(
                volume, blank, target=k, n_steps=NUM_STEPS, internal_batch_size=AT_ONCE
            )
        else:
            # ridge as in the authors' program: captum's lasso may leave nothing of small effects
            ridge = SkLearnRidge(alpha=1.0)
            surrogate = attr.KernelShap(model) if kind == "shap" else attr.Lime(model, ridge)
            found = surrogate.attribute(
                volume,
                blank,
                target=k,
                feature_mask=supervoxels(volume.shape[2:]).expand(1, 1, -1, -1, -1),
                n_samples=NUM_SAMPLES,
                perturbations_per_eval=AT_ONCE,
            )
    return found[0].nan_to_num().sum(0)  # NaN in a contrast that is missing


def supervoxels(shape: Sequence[int]) -> Int[Tensor, "w h d"]:
    """Number the blocks of a grid of NUM_BLOCKS along each axis."""
    numbers = torch.zeros(tuple(shape), dtype=torch.long)
    parts = [torch.arange(size).tensor_split(min(NUM_BLOCKS, size)) for size in shape]
    for number, (right, front, up) in enumerate(product(*parts)):
        numbers[right[0] : right[-1] + 1, front[0] : front[-1] + 1, up[0] : up[-1] + 1] = number
    return numbers
