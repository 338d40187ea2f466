"""Stage two of MCTL (§3.3): a small 3D CNN, its convolutions taken from the autoencoder.

Other encoders take the place of the convolutions by name.
"""

from typing import Any, TypedDict

from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_modules.backbones import Backbone, build_backbone, load_weights
from lightning_modules.encoder import Encoder, Norm, warn_if_thin
from lightning_modules.finetuning import (
    Finetuning,
    configure_finetuning,
    fused_or_default,
    set_modes,
)
from lightning_modules.objective import ClassWeights, LossName, Objective, mix_up
from lightning_modules.readout import Readout, ReadoutName
from lightning_modules.transfer import Seen, add_seen, load_encoder, refuse_seen

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
        nodes: Nodes of the fully connected layer (Table 1: 16, 32, 64); 0 leaves it out: the
            outputs see the encoder's directly.
        pool: Max-pooling factor after each convolution; 1 is the paper's network taken literally.
        norm: Normalisation of what each pooling keeps; the paper has none.
        readout: How the encoder's maps become the head's inputs: 'flatten' takes every voxel of
            every map, as in the paper; 'mean', 'max' and 'mean_max' one or two numbers of each
            map; 'flatten_max' every voxel and the maxima.
        dropout: Share of the head's inputs dropped while training.
        init_ckpt: Checkpoint whose encoder is the starting point; None is random weights.
        freeze_encoder: Train the head alone.
        finetuning: Which layers learn when, and how fast.
        encoder_lr_factor: Learning rate of the encoder, as a multiple of `lr`.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        loss: Binary cross-entropy of every output, as in the paper, or focal loss.
        class_weights: 'balanced' weights a scan inversely to its class's share of the fold's
            training scans; with --data.sampling=balanced it would correct twice.
        focal_gamma: Exponent of the focal loss, at least 0.
        label_smoothing: Share of the target spread evenly over the classes, in [0, 1).
        mixup: MixUp of training batches: alpha of the Beta distribution; 0 is none.
        backbone: 'mctl' is the paper's network; other names are 3D networks of MONAI: resnet18,
            densenet121, efficientnet-b0, vit, … (lightning_modules/backbones.py). They have one
            linear layer for a head; `depth`, `filters`, `nodes`, `pool` and `norm` are mctl's.
        weights_path: File of pretrained weights of such a network, for instance MedicalNet's, to
            start from. It does not tell which patients it has seen: make sure that yours are not
            among them.

    Raises:
        ValueError: If the settings do not fit each other or the volumes.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        spatial_shape: tuple[int, int, int] | None = None,
        depth: int = 3,
        filters: int = 16,
        nodes: int = 32,
        pool: int = 2,
        norm: Norm = "batch",
        readout: ReadoutName = "flatten",
        dropout: float = 0.3,
        init_ckpt: str | None = None,
        freeze_encoder: bool = False,
        finetuning: Finetuning = Finetuning(),
        encoder_lr_factor: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        loss: LossName = "bce",
        class_weights: ClassWeights = "none",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        backbone: str = "mctl",
        weights_path: str | None = None,
    ) -> None:
        super().__init__()
        if num_classes is None or spatial_shape is None:
            raise ValueError("A classifier needs num_classes and spatial_shape.")
        self.save_hyperparameters(ignore="finetuning")  # a checkpoint holds plain values only
        self.finetuning = finetuning
        if weights_path and (backbone == "mctl" or init_ckpt):
            raise ValueError(
                "weights_path is the start of a MONAI backbone: name the backbone, and give either "
                "weights_path or a run to start from (INIT)."
            )
        self.encoder: Encoder | Backbone
        if backbone == "mctl":
            self.encoder = Encoder(depth, filters, pool, norm)
            self.readout = Readout(readout)
            num_features = self.readout.num_features(
                filters, self.encoder.output_shape(spatial_shape)
            )
            hidden: list[nn.Module] = []
            if nodes:
                hidden = [nn.Linear(num_features, nodes), nn.ReLU(), nn.Dropout(dropout)]
            self.head = nn.Sequential(
                nn.Flatten(),
                nn.Dropout(dropout),
                *hidden,
                nn.Linear(nodes or num_features, num_classes),
            )
        else:
            self.encoder = build_backbone(backbone, spatial_shape)
            self.readout = Readout("flatten")  # a backbone pools itself
            self.head = nn.Sequential(
                nn.Dropout(dropout), nn.Linear(self.encoder.num_features, num_classes)
            )
        self.encoder.requires_grad_(not freeze_encoder)
        self.loss = Objective(num_classes, loss, class_weights, focal_gamma, label_smoothing)
        self.inherited = Seen()
        self.val_loss = MeanMetric()
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_balanced_accuracy = MulticlassAccuracy(num_classes, average="macro")

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b k"]:
        """Compute one logit per class."""
        return self.head(self.features(volume))

    def features(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b f"]:
        """Compute the head's inputs: the encoder's outputs as one row for each scan."""
        return self.readout(self.encoder(volume))

    def load_start(self, data: Any) -> None:
        """Load the weights that training starts from.

        Args:
            data: Datamodule of the training; its held-out patients must be new to the weights.

        Raises:
            ValueError: If they do not fit, or have met a patient that is held out.
        """
        if init_ckpt := self.hparams["init_ckpt"]:
            self.inherited = load_encoder(self.encoder, init_ckpt)
            refuse_seen(self.inherited, data, init_ckpt)
        if weights_path := self.hparams["weights_path"]:
            assert isinstance(self.encoder, Backbone)
            load_weights(self.encoder, weights_path)

    @override
    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.hparams["class_weights"] == "balanced":
            self.loss.balance(data.training_label_counts)
        if isinstance(self.encoder, Encoder):
            warn_if_thin(self.encoder, self.hparams["spatial_shape"], "Scans")
        self.load_start(data)

    @override
    def on_train_batch_start(self, batch: ScanBatch, batch_idx: int) -> None:
        set_modes(self.encoder, self.trainer.optimizers[0])

    @override
    def training_step(self, batch: ScanBatch, batch_idx: int) -> Tensor:
        target = F.one_hot(batch["label"], self.hparams["num_classes"])
        volume, target = mix_up(batch["volume"], target, self.hparams["mixup"])
        loss = self.loss(self(volume), target)
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
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return configure_finetuning(
            self.head.parameters(),
            self.encoder,
            self.finetuning,
            lr=self.hparams["lr"],
            encoder_lr_factor=self.hparams["encoder_lr_factor"],
            weight_decay=self.hparams["weight_decay"],
            max_epochs=self.trainer.max_epochs or 0,
            num_steps=int(self.trainer.estimated_stepping_batches),
            fused=fused_or_default(self.trainer.gradient_clip_val),
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        add_seen(checkpoint, self.trainer.datamodule, self.inherited)  # type: ignore[attr-defined]
