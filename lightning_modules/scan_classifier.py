"""What every classifier of scans does: its steps, its metrics, its optimizer, its start."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Shaped
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_modules.finetuning import (
    Finetuning,
    configure_finetuning,
    fused_or_default,
    set_modes,
)
from lightning_modules.objective import ClassWeights, LossName, Objective, cut_mix, mix_up
from lightning_modules.parts.optimizers import check_optimizer
from lightning_modules.transfer import load_encoder

NOT_PLAIN = ("finetuning", "metrics")  # a checkpoint holds plain values only
# Axes: B = batch; C = channels; F = features; P = covariates; K = classes; W, H, D = voxels along
# R, A, S.


class ScanBatch(TypedDict):
    """What a step needs.

    volume: (B, C, W, H, D), NaN in a contrast that is missing; covariates: (B, P); label: class
    index, or standardised target (B,); row: position in the cohort table (B,).
    """

    volume: Tensor
    covariates: Tensor
    label: Tensor
    row: Tensor


class Prediction(TypedDict):
    """What a prediction step returns.

    row: (B,); prob: one output per class in [0, 1], (B, K), or of a regression value: the number in
    standard deviations of the training targets from their mean, (B, 1).
    """

    row: Tensor
    prob: NotRequired[Tensor]
    value: NotRequired[Tensor]


class Head(nn.Sequential):
    """Layers whose last one also sees the covariates."""

    @override
    def forward(
        self, features: Float[Tensor, "*b f"], covariates: Float[Tensor, "*b p"] | None = None
    ) -> Float[Tensor, "*b k"]:
        """Compute one logit per class."""
        *first, last = self
        for layer in first:
            features = layer(features)
        return last(features if covariates is None else torch.cat([features, covariates], -1))


class ScanClassifier(LightningModule):
    """Classify volumes with one sigmoid output per class; the highest output is the class.

    With `num_classes` 1 the one output is a number, the standardised target of a regression.

    A subclass makes `encoder` and `head`, and defines `forward` and `features`.

    Args:
        num_classes: Number of classes, 1 for a number; the command line takes it from the cohort.
        spatial_shape: Voxels of a volume along R, A, S; taken from the cohort as well.
        num_channels: Channels of a volume, taken from the cohort: contrasts, perhaps a mask.
        num_covariates: Numbers that the head sees next to the images; taken from the cohort.
        init_ckpt: Checkpoint whose encoder is the starting point; None is random weights.
        finetuning: Which layers learn when, and how fast.
        encoder_lr_factor: Learning rate of the encoder, as a multiple of `lr`.
        optimizer: 'adamw', or another name of timm.optim, such as sgd, radam, lion or adan;
            'lookahead_' before a name averages every few steps.
        lr: Learning rate.
        weight_decay: Weight decay.
        loss: 'bce', binary cross-entropy of every output, as in the paper, 'focal' or
            'auc_margin'; of a regression 'mse' or 'huber', on the standardised target. None is bce
            or mse.
        class_weights: 'balanced' weights a scan inversely to its class's share of the fold's
            training scans; with --data.sampling=balanced it would correct twice.
        focal_gamma: Exponent of the focal loss, at least 0.
        label_smoothing: Share of the target spread evenly over the classes, in [0, 1).
        mixup: MixUp of training batches: alpha of the Beta distribution; 0 is none.
        cutmix: CutMix of training batches, with 3D boxes: alpha, likewise; one of the two.
        auc_margin: Margin of the loss 'auc_margin', in (0, 1].
        metrics: More metrics of torchmetrics for the validation part, by name; each sees logits
            (B, K) and class indices (B,), or numbers and standardised targets (B,), and is logged
            as val/<name>.

    Raises:
        ValueError: If the number of classes or the shape is not given.
    """

    encoder: nn.Module
    head: Head
    has_own_scale = False  # whether it scales the intensities of a scan itself
    takes_missing = False  # whether a scan may lack a contrast

    def __init__(
        self,
        num_classes: int | None = None,
        spatial_shape: tuple[int, int, int] | None = None,
        num_channels: int = 1,
        num_covariates: int = 0,
        init_ckpt: str | None = None,
        finetuning: Finetuning = Finetuning(),
        encoder_lr_factor: float = 1.0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        loss: LossName | None = None,
        class_weights: ClassWeights = "none",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        auc_margin: float = 1.0,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        if num_classes is None or spatial_shape is None:
            raise ValueError(
                "A classifier needs num_classes and spatial_shape: take both from data.facts()."
            )
        if mixup and cutmix:
            raise ValueError("Batches are mixed by mixup or cutmix: set one of them to 0.")
        self.save_hyperparameters(ignore=NOT_PLAIN)
        check_optimizer(optimizer)
        self.finetuning = finetuning
        self.loss = Objective(
            num_classes, loss, class_weights, focal_gamma, label_smoothing, auc_margin
        )
        self.val_loss = MeanMetric()
        shipped: dict[str, Metric] = {"mae": MeanAbsoluteError()}
        if not self.predicts_number:
            shipped = {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "balanced_accuracy": MulticlassAccuracy(num_classes, average="macro"),
            }
        self.val_metrics = nn.ModuleDict({**shipped, **(metrics or {})})

    def features(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        """Compute what the head sees: one row of the encoder's features for each scan."""
        raise NotImplementedError

    def summary(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        """Compute the features by which new scans are compared with the training scans."""
        return self.features(volume)

    @property
    def predicts_number(self) -> bool:
        """Whether the one output is a number, and not a class's logit."""
        return self.hparams["num_classes"] == 1

    def truth(self, batch: ScanBatch) -> Tensor:
        """What the outputs are compared with: shares of the classes, or the number, (B, K)."""
        if self.predicts_number:
            return batch["label"][:, None]
        return F.one_hot(batch["label"], self.hparams["num_classes"])

    @property
    def has_class_maps(self) -> bool:
        """Whether maps of the last convolution show where the model looks."""
        return False

    def check_shape(self, volume: Tensor) -> None:
        """Refuse volumes that the model was not built for.

        Raises:
            ValueError: If they have another number of channels or voxels.
        """
        built_for = (self.hparams["num_channels"], *self.hparams["spatial_shape"])
        if tuple(volume.shape[1:]) != built_for:
            raise ValueError(
                f"The volume has the shape {tuple(volume.shape)}, but the model was built for "
                f"(B, {', '.join(map(str, built_for))}): batch, channel, R, A, S. Preprocess the "
                "scan as the training scans were, or build the model from data.facts()."
            )

    def inputs(self, batch: ScanBatch) -> list[Tensor]:
        """What `forward` sees of a batch: the volumes, and the covariates if there are any."""
        return [batch["volume"], *([batch["covariates"]] if self.hparams["num_covariates"] else [])]

    def load_start(self) -> None:
        """Load the weights that training starts from.

        Raises:
            ValueError: If they cannot be obtained or do not fit.
        """
        if init_ckpt := self.hparams["init_ckpt"]:
            load_encoder(self.encoder, init_ckpt)

    def start_from_covariates(
        self, covariates: Float[Tensor, "n p"], truth: Shaped[Tensor, " n"]
    ) -> None:
        """Let the head begin with what the covariates tell alone: logistic or ridge regression.

        From random weights a short training would rather learn images by heart.

        Args:
            covariates: Those of the training scans, scaled.
            truth: Class index of each training scan, or its standardised number.
        """
        from sklearn.linear_model import LogisticRegression, Ridge  # few runs need it

        last, known = self.head[-1], covariates.numpy()
        assert isinstance(last, nn.Linear)
        for k in range(last.out_features):
            if last.out_features == 1:
                fitted = Ridge().fit(known, truth.numpy())
            elif 0 < (truth == k).sum() < len(truth):
                fitted = LogisticRegression().fit(known, (truth == k).numpy())
            else:
                continue  # nobody of the class, or nobody else
            weight, bias = (np.ravel(each) for each in (fitted.coef_, fitted.intercept_))
            last.weight.data[k, -known.shape[1] :] = torch.from_numpy(weight)
            last.bias.data[k] = float(bias[0])

    @override
    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        if self.hparams["num_covariates"]:
            self.start_from_covariates(*self.trainer.datamodule.training_covariates)  # type: ignore[attr-defined]
        if self.hparams["class_weights"] == "balanced":
            self.loss.balance(self.trainer.datamodule.training_label_counts)  # type: ignore[attr-defined]
        self.load_start()

    @override
    def on_train_batch_start(self, batch: ScanBatch, batch_idx: int) -> None:
        set_modes(self.encoder, self.trainer.optimizers[0])

    @override
    def training_step(self, batch: ScanBatch, batch_idx: int) -> Tensor:
        mixed = mix_up(*self.inputs(batch), self.truth(batch), alpha=self.hparams["mixup"])
        *inputs, target = cut_mix(*mixed, alpha=self.hparams["cutmix"])
        loss = self.training_loss(inputs, target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(target))
        return loss

    def training_loss(self, inputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            inputs: What `forward` sees.
            target: Each scan's share in each class, (B, K).
        """
        return self.loss(self(*inputs), target)

    @override
    def validation_step(self, batch: ScanBatch, batch_idx: int) -> None:
        logits, label = self(*self.inputs(batch)), batch["label"]
        self.val_loss.update(self.loss(logits, self.truth(batch)), weight=len(label))
        self.log("val/loss", self.val_loss)
        if self.predicts_number:
            logits = logits[:, 0]
        for name, metric in self.val_metrics.items():
            metric.update(logits, label)  # type: ignore[operator]
            self.log(f"val/{name}", metric)  # type: ignore[arg-type]

    @override
    def predict_step(self, batch: ScanBatch, batch_idx: int) -> Prediction:
        outputs = self(*self.inputs(batch)).float()
        if self.predicts_number:
            return {"row": batch["row"], "value": outputs}
        return {"row": batch["row"], "prob": outputs.sigmoid()}

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        encoder = {id(parameter) for parameter in self.encoder.parameters()}
        return configure_finetuning(
            [parameter for parameter in self.parameters() if id(parameter) not in encoder],
            self.encoder,
            self.finetuning,
            optimizer=self.hparams["optimizer"],
            lr=self.hparams["lr"],
            encoder_lr_factor=self.hparams["encoder_lr_factor"],
            weight_decay=self.hparams["weight_decay"],
            max_epochs=self.trainer.max_epochs or 0,
            num_steps=int(self.trainer.estimated_stepping_batches),
            fused=fused_or_default(self.trainer.gradient_clip_val),
        )
