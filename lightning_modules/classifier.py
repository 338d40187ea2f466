"""Stage two of MCTL (§3.3): a small 3D CNN, its convolutions taken from the autoencoder."""

from typing import Any, TypedDict

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_modules.encoder import Encoder, Norm
from lightning_modules.transfer import load_encoder, refuse_overlap

# Axes: B = batch; C = 1 channel; K = classes; W, H, D = voxels along R, A, S.


class ScanBatch(TypedDict):
    """What a step needs.

    volume: (B, 1, W, H, D); label: class index (B,); row: position in the cohort table (B,).
    """

    volume: Tensor
    label: Tensor
    row: Tensor


class Prediction(TypedDict):
    """What a prediction step returns; row: (B,); prob: one output per class in [0, 1], (B, K)."""

    row: Tensor
    prob: Tensor


class Classifier(LightningModule):
    """Classify volumes with one sigmoid output per class; the highest output is the class.

    Args:
        num_classes: Number of classes; the command line takes it from the cohort.
        spatial_shape: Voxels of a volume along R, A, S; taken from the cohort as well.
        depth: Number of convolutions (MCTL Table 1: 1, 2, 3).
        filters: Filters of each convolution (Table 1: 16, 32, 64).
        nodes: Nodes of the fully connected layer (Table 1: 16, 32, 64).
        pool: Max-pooling factor after each convolution; 1 is the paper's network taken literally.
        norm: Normalisation after each convolution; the paper has none.
        dropout: Share of the head's inputs dropped while training.
        init_ckpt: Checkpoint whose encoder is the starting point; None is random weights.
        freeze_encoder: Train the head alone.
        encoder_lr_factor: Learning rate of the encoder, as a multiple of `lr`.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        spatial_shape: tuple[int, int, int] | None = None,
        depth: int = 3,
        filters: int = 16,
        nodes: int = 32,
        pool: int = 2,
        norm: Norm = "none",
        dropout: float = 0.0,
        init_ckpt: str | None = None,
        freeze_encoder: bool = False,
        encoder_lr_factor: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes is None or spatial_shape is None:
            raise ValueError("A classifier needs num_classes and spatial_shape.")
        self.save_hyperparameters()
        self.encoder = Encoder(depth, filters, pool, norm)
        num_features = filters
        for size in spatial_shape:
            for _ in range(depth):
                size = -(-size // pool)
            num_features *= size
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(num_features, nodes),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(nodes, num_classes),
        )
        self.encoder.requires_grad_(not freeze_encoder)
        self.inherited_ledger: set[str] = set()
        self.val_loss = MeanMetric()
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_balanced_accuracy = MulticlassAccuracy(num_classes, average="macro")

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b k"]:
        """Compute one logit per class."""
        return self.head(self.encoder(volume))

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Binary cross-entropy of every output node against its class."""
        target = F.one_hot(label, logits.shape[1]).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target)

    @override
    def setup(self, stage: str) -> None:
        init_ckpt = self.hparams["init_ckpt"]
        if stage == "fit" and init_ckpt:
            self.inherited_ledger = load_encoder(self.encoder, init_ckpt)
            held_out = self.trainer.datamodule.held_out_patients  # type: ignore[attr-defined]
            refuse_overlap(self.inherited_ledger, held_out, init_ckpt)

    @override
    def training_step(self, batch: ScanBatch, batch_idx: int) -> Tensor:
        loss = self.loss(self(batch["volume"]), batch["label"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["label"]))
        return loss

    @override
    def validation_step(self, batch: ScanBatch, batch_idx: int) -> None:
        logits, label = self(batch["volume"]), batch["label"]
        self.val_loss.update(self.loss(logits, label), weight=len(label))
        self.val_accuracy.update(logits, label)
        self.val_balanced_accuracy.update(logits, label)
        self.log("val/loss", self.val_loss)
        self.log("val/accuracy", self.val_accuracy)
        self.log("val/balanced_accuracy", self.val_balanced_accuracy)

    @override
    def predict_step(self, batch: ScanBatch, batch_idx: int) -> Prediction:
        return {"row": batch["row"], "prob": self(batch["volume"]).float().sigmoid()}

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        lr = self.hparams["lr"]
        encoder_lr = lr * self.hparams["encoder_lr_factor"]
        return torch.optim.AdamW(
            [
                {"params": self.head.parameters()},
                {"params": self.encoder.parameters(), "lr": encoder_lr},
            ],
            lr=lr,
            weight_decay=self.hparams["weight_decay"],
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seen = self.trainer.datamodule.training_patients | self.inherited_ledger  # type: ignore[attr-defined]
        checkpoint["ledger"] = sorted(seen)
