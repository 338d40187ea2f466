"""Where a 3D network looks: class activation and occlusion maps, by MONAI."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

MapKind = Literal["gradcam", "occlusion"]
NUM_BLOCKS = 6  # of an occlusion map, along each axis


def class_map(
    model: LightningModule, volume: Float[Tensor, "1 1 w h d"], k: int, kind: MapKind
) -> Float[np.ndarray, "w h d"]:
    """Map how much each place speaks for class k.

    Args:
        model: A classifier that returns logits.
        volume: One scaled volume.
        k: Index of the class.
        kind: 'gradcam' weights the maps of the encoder's last convolution by their gradients
            (Selvaraju et al. 2017); 'occlusion' blanks one block after another and sees how far
            the logit falls (Zeiler and Fergus 2014), with any network, slowly.

    Returns:
        Values from 0 (nothing, or against) to 1 (most); all 0 where nothing speaks for the class.
    """
    from monai.visualize import GradCAM, OcclusionSensitivity  # takes seconds, few commands need it

    model = model.eval()
    if kind == "gradcam":
        camera = GradCAM(model, _last_convolution(model), postprocessing=_as_it_is)
        with torch.enable_grad():
            heat = camera(volume, class_idx=k, layer_idx=-1)[0, 0]
    else:
        size = [max(2, -(-length // NUM_BLOCKS)) for length in volume.shape[2:]]
        blind = OcclusionSensitivity(
            model, mask_size=size, n_batch=8, overlap=0.0, activate=False, verbose=False
        )
        with torch.no_grad():
            heat = model(volume)[0, k] - blind(volume)[0][0, k]
    positive = heat.detach().clamp(min=0)
    return (positive / positive.max().clamp(min=1e-12)).numpy()


def _last_convolution(model: LightningModule) -> str:
    encoder = model.get_submodule("encoder")
    names = [name for name, layer in encoder.named_modules() if isinstance(layer, nn.Conv3d)]
    if not names:
        raise ValueError("The model has no 3D convolution: use occlusion maps.")
    return f"encoder.{names[-1]}"


def _as_it_is(heat: Tensor) -> Tensor:
    return heat
