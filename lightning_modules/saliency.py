"""Where a 3D network looks: class activation maps by MONAI, occlusion maps, maps by captum."""

import copy
from itertools import product
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule
from scipy.stats import spearmanr
from torch import Tensor, nn

from lightning_modules.attributions import Attribution, attribution

MapKind = Literal["gradcam", "gradcam++", "occlusion", Attribution]
ALIKE = 0.5  # rank correlation from which a map hardly depends on the weights
NUM_BLOCKS = 6  # of an occlusion map, along each axis


def class_map(
    model: LightningModule,
    volume: Float[Tensor, "1 c w h d"],
    k: int,
    kind: MapKind,
    covariates: Float[Tensor, "1 p"] | None = None,
) -> Float[np.ndarray, "w h d"]:
    """Map how much each place speaks for class k.

    Args:
        model: A classifier that returns logits.
        volume: One scaled volume.
        k: Index of the class.
        kind: 'gradcam' weights the maps of the encoder's last convolution by their gradients
            (Selvaraju et al. 2017), 'gradcam++' each place of a map by its own (Chattopadhyay et
            al. 2018); 'occlusion' blanks one block after another and sees how far
            the logit falls (Zeiler and Fergus 2014), with any network, slowly. All contrasts have
            one map: of 'gradcam' the mean over those that are encoded one by one.
        covariates: The scan's scaled covariates, where the model sees some.

    Returns:
        Values from 0 (nothing, or against) to 1 (most); all 0 where nothing speaks for the class.
    """
    seen = _Given(model.eval(), covariates)
    if kind in get_args(Attribution):
        heat = attribution(seen, volume, k, cast(Attribution, kind))
    elif kind == "occlusion":
        heat = _occlusion(seen, volume, k)
    else:
        heat = _gradcam(seen, volume, k, kind)
    positive = heat.detach().clamp(min=0)
    return (positive / positive.max().clamp(min=1e-12)).numpy()


def randomised(model: LightningModule) -> LightningModule:
    """Copy a model with the values of each of its weights in another, fixed order."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            order = torch.randperm(weight.numel(), generator=generator)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return other


def likeness_if_randomised(
    heat: Float[np.ndarray, "w h d"], model: LightningModule, *seen: Any
) -> float:
    """Compare a map with that of the same network, its weights in another order.

    What both show is not what was learned (Adebayo et al. 2018, who draw new values; here the
    network keeps the size of its activations).

    Args:
        heat: What `class_map` returned.
        model: What it was given first.
        seen: What else it was given.
    """
    return likeness(heat, class_map(randomised(model), *seen))


def likeness(first: Float[np.ndarray, "w h d"], second: Float[np.ndarray, "w h d"]) -> float:
    """Compute the rank correlation of two maps over their voxels; 0 where one is empty."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second, axis=None).statistic)


def likeness_words(likenesses: list[float]) -> str:
    """Say what the maps of a network with its weights in another order have in common with its own.

    Args:
        likenesses: Rank correlation of both maps, for some scans.
    """
    middle = float(np.median(likenesses))
    words = (
        "With the network's weights in another order, maps keep a rank correlation of "
        f"{middle:.2f} (median of {len(likenesses)} scans)"
    )
    if middle < ALIKE:
        return f"{words}: they depend on what was learned."
    return f"{words}: they show the scan rather than what was learned and mean little."


class _Given(nn.Module):
    """A model of volumes alone, its covariates given."""

    def __init__(self, model: LightningModule, covariates: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.more = [] if covariates is None else [covariates]

    def forward(self, volume: Tensor) -> Tensor:
        return self.model(volume, *(each.expand(len(volume), -1) for each in self.more))


def _last_convolution(model: nn.Module) -> str:
    encoder = model.get_submodule("model.encoder")
    names = [name for name, layer in encoder.named_modules() if isinstance(layer, nn.Conv3d)]
    if not names:
        raise ValueError("The model has no 3D convolution: use occlusion maps.")
    return f"model.encoder.{names[-1]}"


def _gradcam(model: nn.Module, volume: Tensor, k: int, kind: MapKind) -> Tensor:
    from monai.visualize import GradCAM, GradCAMpp  # takes seconds, few commands need it

    its = GradCAM if kind == "gradcam" else GradCAMpp
    camera = its(model, _last_convolution(model), postprocessing=_as_it_is)
    with torch.enable_grad():
        return camera(volume.clone().requires_grad_(), class_idx=k, layer_idx=-1).mean(0)[0]


@torch.no_grad()
def _occlusion(model: nn.Module, volume: Tensor, k: int) -> Tensor:
    """How far the logit falls when a block takes the volume's mean."""
    shape = volume.shape[2:]
    steps = [max(2, -(-length // NUM_BLOCKS)) for length in shape]
    means = volume[0].mean((1, 2, 3))[:, None, None, None]
    logit, heat = model(volume)[0, k], torch.zeros(shape)
    cuts = [
        [slice(at, at + step) for at in range(0, length, step)]
        for length, step in zip(shape, steps, strict=True)
    ]
    for right, front, up in product(*cuts):
        blanked = volume.clone()
        blanked[0, :, right, front, up] = means
        heat[right, front, up] = logit - model(blanked)[0, k]
    return heat


def _as_it_is(heat: Tensor) -> Tensor:
    return heat
