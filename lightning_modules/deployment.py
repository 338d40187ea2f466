"""A trained fold as one function from preprocessed volume to probabilities, in torch and ONNX."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.scan_classifier import ScanClassifier

# Axes: B = batch; K = classes; W, H, D = voxels along R, A, S.

SMALLEST_LOG = math.log(1e-6)  # calibration takes no score as smaller


class FoldModel(nn.Module):
    """Scale a preprocessed volume, classify it, and calibrate the score.

    The score is the sigmoid outputs divided by their sum, as in the run's tables.

    Args:
        model: The trained classifier.
        mean: Mean intensity of its training scans.
        divisor: What volumes are divided by after the mean is subtracted.
        slope: What the logarithm of the score is multiplied by; 1 leaves it.
        intercepts: What is added to it, one per class; None is nothing.
    """

    intercepts: Tensor

    def __init__(
        self,
        model: LightningModule,
        mean: float,
        divisor: float,
        slope: float = 1.0,
        intercepts: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.mean = mean
        self.divisor = divisor
        self.slope = slope
        self.register_buffer("intercepts", torch.tensor(intercepts or 0.0))
        self.eval().requires_grad_(False)

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b k"]:
        """Compute one probability per class; they add up to one."""
        log_score = F.logsigmoid(self.model(self.scale(volume)).float()).log_softmax(1)
        return (self.slope * log_score.clamp(min=SMALLEST_LOG) + self.intercepts).softmax(1)

    def scale(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b 1 w h d"]:
        """Scale the intensities as in training."""
        return (volume.float() - self.mean) / self.divisor

    def features(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b f"]:
        """Compute what is compared between scans; a model of another kind has none, (B, 0)."""
        if isinstance(self.model, ScanClassifier):
            return self.model.summary(self.scale(volume))
        return torch.empty(len(volume), 0)


class MeanModel(nn.Module):
    """Average the probabilities of the folds.

    Args:
        folds: The trained folds.
    """

    def __init__(self, folds: Sequence[FoldModel]) -> None:
        super().__init__()
        self.folds = nn.ModuleList(folds)

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b k"]:
        """Compute one probability per class."""
        return torch.stack([fold(volume) for fold in self.folds]).mean(0)


def write_onnx(fold: FoldModel, spatial_shape: tuple[int, int, int], path: Path) -> None:
    """Write a fold as an ONNX graph from `volume` (B, 1, W, H, D) to `prob` (B, K).

    Args:
        fold: The trained fold.
        spatial_shape: Voxels of a volume along R, A, S; the batch may have any size.
        path: Where to.
    """
    torch.onnx.export(
        fold,
        (torch.zeros(2, 1, *spatial_shape),),
        str(path),
        input_names=["volume"],
        output_names=["prob"],
        dynamic_shapes={"volume": {0: torch.export.Dim("batch", min=1)}},
        external_data=False,
        dynamo=True,
        verbose=False,
    )


@torch.no_grad()
def onnx_difference(fold: FoldModel, path: Path, volume: Float[Tensor, "b 1 w h d"]) -> float:
    """Largest difference between the probabilities of a fold and of its ONNX graph.

    Args:
        fold: The trained fold.
        path: Its ONNX graph.
        volume: Preprocessed volumes to try.
    """
    import onnxruntime  # training needs none of it

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (prob,) = session.run(["prob"], {"volume": volume.float().numpy()})
    return float(np.abs(np.asarray(prob) - fold(volume).numpy()).max())
