"""Where a 3D network looks: class activation maps by MONAI, and occlusion maps."""

from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

MapKind = Literal["gradcam", "occlusion"]
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
            (Selvaraju et al. 2017); 'occlusion' blanks one block after another and sees how far
            the logit falls (Zeiler and Fergus 2014), with any network, slowly. All contrasts have
            one map: of 'gradcam' the mean over those that are encoded one by one.
        covariates: The scan's scaled covariates, where the model sees some.

    Returns:
        Values from 0 (nothing, or against) to 1 (most); all 0 where nothing speaks for the class.
    """
    seen = _Given(model.eval(), covariates)
    heat = _gradcam(seen, volume, k) if kind == "gradcam" else _occlusion(seen, volume, k)
    positive = heat.detach().clamp(min=0)
    return (positive / positive.max().clamp(min=1e-12)).numpy()


class _Given(nn.Module):
    """A model of volumes alone, its covariates given."""

    def __init__(self, model: LightningModule, covariates: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.more = [] if covariates is None else [covariates]

    def forward(self, volume: Tensor) -> Tensor:
        return self.model(volume, *self.more)


def _last_convolution(model: nn.Module) -> str:
    encoder = model.get_submodule("model.encoder")
    names = [name for name, layer in encoder.named_modules() if isinstance(layer, nn.Conv3d)]
    if not names:
        raise ValueError("The model has no 3D convolution: use occlusion maps.")
    return f"model.encoder.{names[-1]}"


def _gradcam(model: nn.Module, volume: Tensor, k: int) -> Tensor:
    from monai.visualize import GradCAM  # takes seconds, few commands need it

    camera = GradCAM(model, _last_convolution(model), postprocessing=_as_it_is)
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
