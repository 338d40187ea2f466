"""A trained fold as one function from preprocessed volume to prediction, in torch and ONNX."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_modules.scan_classifier import ScanClassifier

# Axes: B = batch; C = channels; P = covariates; K = classes; W, H, D = voxels along R, A, S.

SMALLEST_LOG = math.log(1e-6)  # calibration takes no score as smaller


class FoldModel(nn.Module):
    """Scale a preprocessed volume, and covariates, classify it, and calibrate the score.

    The score is the sigmoid outputs divided by their sum, as in the run's tables.

    Args:
        model: The trained classifier.
        mean: Mean intensity of its training scans, one number or one for each channel.
        divisor: What volumes are divided by after the mean is subtracted, the same.
        slope: What the logarithm of the score is multiplied by; 1 leaves it.
        intercepts: What is added to it, one per class; None is nothing.
        coding: How covariates are imputed and scaled: for each what a missing one becomes, what
            is subtracted, and the divisor, (3, P); None for models without.
    """

    mean: Tensor
    divisor: Tensor
    intercepts: Tensor
    coding: Tensor
    output_name = "prob"

    def __init__(
        self,
        model: LightningModule,
        mean: float | Sequence[float],
        divisor: float | Sequence[float],
        slope: float = 1.0,
        intercepts: Sequence[float] | None = None,
        coding: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", _by_channel(mean))
        self.register_buffer("divisor", _by_channel(divisor))
        self.register_buffer("coding", torch.tensor(coding or [[]] * 3))
        self.slope = slope
        self.register_buffer("intercepts", torch.tensor(intercepts or 0.0))
        self.eval().requires_grad_(False)

    @property
    def num_channels(self) -> int:
        """Channels of a volume."""
        return len(self.mean)

    @property
    def num_covariates(self) -> int:
        """Numbers that are needed next to the images."""
        return self.coding.shape[1]

    def forward(
        self,
        volume: Float[Tensor, "b c w h d"],
        covariates: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b k"]:
        """Compute one probability per class; they add up to one.

        Args:
            volume: Preprocessed volumes.
            covariates: As they are in the table, NaN where one is missing.
        """
        more = [] if covariates is None else [self.code(covariates)]
        log_score = F.logsigmoid(self.model(self.scale(volume), *more).float()).log_softmax(1)
        return (self.slope * log_score.clamp(min=SMALLEST_LOG) + self.intercepts).softmax(1)

    def scale(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b c w h d"]:
        """Scale the intensities as in training."""
        return (volume.float() - self.mean) / self.divisor

    def code(self, covariates: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Impute and scale covariates as in training."""
        fill, mean, sd = self.coding
        return (torch.where(covariates.isnan(), fill, covariates) - mean) / sd

    def features(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        """Compute what is compared between scans; a model of another kind has none, (B, 0)."""
        if isinstance(self.model, ScanClassifier):
            return self.model.summary(self.scale(volume))
        return torch.empty(len(volume), 0)


class FoldNumber(FoldModel):
    """Scale a preprocessed volume and predict a number in the unit of the target.

    Args:
        model: The trained network.
        mean: Mean intensity of its training scans.
        divisor: What volumes are divided by after the mean is subtracted.
        target_mean: Mean of its training targets.
        target_sd: Their standard deviation.
        coding: How covariates are imputed and scaled.
    """

    output_name = "value"

    def __init__(
        self,
        model: LightningModule,
        mean: float | Sequence[float],
        divisor: float | Sequence[float],
        target_mean: float,
        target_sd: float,
        coding: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__(model, mean, divisor, coding=coding)
        self.target_mean = target_mean
        self.target_sd = target_sd

    @override
    def forward(
        self,
        volume: Float[Tensor, "b c w h d"],
        covariates: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b 1"]:
        more = [] if covariates is None else [self.code(covariates)]
        return self.model(self.scale(volume), *more).float() * self.target_sd + self.target_mean


class MeanModel(nn.Module):
    """Average the predictions of the folds.

    Args:
        folds: The trained folds.
    """

    def __init__(self, folds: Sequence[FoldModel]) -> None:
        super().__init__()
        self.folds = nn.ModuleList(folds)

    def forward(
        self,
        volume: Float[Tensor, "b c w h d"],
        covariates: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b k"]:
        """Compute one probability per class, or one number."""
        return torch.stack([fold(volume, covariates) for fold in self.folds]).mean(0)


def write_onnx(fold: FoldModel, spatial_shape: tuple[int, int, int], path: Path) -> None:
    """Write a fold as an ONNX graph from `volume` (B, C, W, H, D) to `prob` (B, K) or `value`.

    A model that sees covariates has them as a second input, `covariates` (B, P).

    Args:
        fold: The trained fold.
        spatial_shape: Voxels of a volume along R, A, S; the batch may have any size.
        path: Where to.
    """
    example = {"volume": torch.zeros(2, fold.num_channels, *spatial_shape)}
    if fold.num_covariates:
        example["covariates"] = torch.zeros(2, fold.num_covariates)
    dynamic: dict[str, dict] = {"volume": {0: torch.export.Dim("batch", min=1)}}
    dynamic |= {name: {0: torch.export.Dim.DYNAMIC} for name in example if name not in dynamic}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of how it traces recurrent layers
        torch.onnx.export(
            fold,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=[fold.output_name],
            dynamic_shapes=dynamic,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


@torch.no_grad()
def onnx_difference(
    fold: FoldModel,
    path: Path,
    volume: Float[Tensor, "b c w h d"],
    covariates: Float[Tensor, "b p"] | None = None,
) -> float:
    """Largest difference between the predictions of a fold and of its ONNX graph.

    Of numbers, in standard deviations of the training targets.

    Args:
        fold: The trained fold.
        path: Its ONNX graph.
        volume: Preprocessed volumes to try.
        covariates: Their covariates, where the model sees some.
    """
    import onnxruntime  # training needs none of it

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {"volume": volume.float().numpy()}
    if covariates is not None:
        inputs["covariates"] = covariates.numpy()
    (found,) = session.run([fold.output_name], inputs)
    unit = fold.target_sd if isinstance(fold, FoldNumber) else 1.0
    return float(np.abs(np.asarray(found) - fold(volume, covariates).numpy()).max() / unit)


def _by_channel(numbers: float | Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1, 1)
