"""The 2D baseline: slices through a network pretrained on photographs, one prediction per scan."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_modules.backbones_2d import build_backbone_2d, count_features, load_weights_2d
from lightning_modules.parts.branches import Fuse
from lightning_modules.parts.lora import freeze_or_adapt
from lightning_modules.parts.slice_heads import Aggregation, build_slice_head
from lightning_modules.scan_classifier import NOT_PLAIN, Head, ScanClassifier

# Axes: B = batch; C = contrasts of a volume, channels of an image; P = covariates; K = classes;
# S = slices; F = features; W, H, D = voxels along R, A, S; H', W' = rows and columns of a slice.

PLANES = {"sagittal": 2, "coronal": 3, "axial": 4}  # axis of (B, C, W, H, D) that is cut
EPSILON = 1e-6


class ImageNetBaseline(ScanClassifier):
    """Classify scans by their slices with any backbone of timm; of each contrast its slices.

    Args:
        num_classes: Number of classes; the command line takes it from the cohort.
        spatial_shape: Voxels of a volume along R, A, S; taken from the cohort as well.
        backbone: Name of a timm model, or hf-hub:OWNER/NAME of one on the Hugging Face Hub; names
            with + between them are networks next to each other, their features fused.
        fuse: How features of several networks come together: 'concat' puts them next to each
            other, 'add' projects each network's to as many as the smallest has and adds them.
        weights: 'imagenet' downloads what timm, or the Hub, has for the backbone; a local
            .safetensors or .pth file; 'none' is untrained. Of several networks a list of these.
        plane: Plane of the slices; 'all' takes `num_slices` of each of the three.
        num_slices: Slices of a scan: every ⌊m/n⌋-th of the m that are not left out.
            A picture is one slice.
        skip_first: Slices left out at the low end (right, posterior or inferior to left, anterior
            or superior, in RAS order: the end with index 0), in every plane that is cut.
        skip_last: Slices left out at the other end.
        aggregation: How slices become one prediction: the mean of their outputs, a majority vote,
            or attention over their features, learned (Ilse et al. 2018). 'lstm', 'gru' and
            'transformer' read the features in the order of the slices, each plane and contrast by
            itself with the same weights; the mean of their outputs counts.
        sequence_nodes: Nodes of lstm and gru, in each direction; width of the transformer.
        image_size: Height and width that slices are resized to; None is what the weights saw.
        dropout: Share of the head's inputs dropped while training.
        freeze_encoder: Train the head alone.
        encoder_lr_factor: Learning rate of the backbone, as a multiple of `lr`.
        lora_rank: Rank of updates of the backbone's linear layers, which learn in its place (LoRA,
            Hu et al. 2022); it stays frozen. 0 is none. A rate like the head's suits them:
            encoder_lr_factor 1.
        training: What every classifier has, see ScanClassifier; `init_ckpt` must be of this kind
            and counts after `weights`.
    """

    has_own_scale = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        spatial_shape: tuple[int, int, int] | None = None,
        backbone: str = "resnet18",
        fuse: Fuse = "concat",
        weights: list[str] | str = "imagenet",
        plane: Literal["axial", "coronal", "sagittal", "all"] = "axial",
        num_slices: int = 8,
        skip_first: int = 0,
        skip_last: int = 0,
        aggregation: Aggregation = "mean",
        sequence_nodes: int = 64,
        image_size: int | None = None,
        dropout: float = 0.0,
        freeze_encoder: bool = False,
        encoder_lr_factor: float = 0.1,
        lora_rank: int = 0,
        **training: Any,
    ) -> None:
        super().__init__(
            num_classes, spatial_shape, encoder_lr_factor=encoder_lr_factor, **training
        )
        self.save_hyperparameters(ignore=NOT_PLAIN)
        assert num_classes is not None
        assert spatial_shape is not None
        if num_classes == 1 and aggregation == "vote":
            raise ValueError(
                "aggregation is vote, which numbers cannot have: use mean or attention."
            )
        if spatial_shape[2] == 1:
            num_slices = 1
            if plane != "axial":
                raise ValueError(f"plane is {plane}, but pictures are their axial slice: drop it.")
        self.slices = {
            each: choose_slices(spatial_shape[PLANES[each] - 2], num_slices, skip_first, skip_last)
            for each in (PLANES if plane == "all" else [plane])
        }
        self.encoder, seen = build_backbone_2d(backbone, image_size, fuse)
        self.image_size = (image_size, image_size) if image_size else tuple(seen["input_size"][1:])
        self.register_buffer("mean", torch.tensor(seen["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(seen["std"])[:, None, None], persistent=False)
        num_features = count_features(self.encoder, (len(seen["mean"]), *self.image_size))
        freeze_or_adapt(self.encoder, freeze_encoder, lora_rank)
        self.attention = build_slice_head(aggregation, num_features, sequence_nodes, num_slices)
        num_inputs = self.attention.num_outputs + self.hparams["num_covariates"]
        self.head = Head(nn.Dropout(dropout), nn.Linear(num_inputs, num_classes))

    def images(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b s rgb h2 w2"]:
        """Cut slices and dress them as the weights expect: size, channels, normalisation."""
        self.check_shape(volume)
        low, high = volume.amin((2, 3, 4), True), volume.amax((2, 3, 4), True)
        volume = (volume - low) / (high - low).clamp(min=EPSILON)
        return torch.cat([self._images(volume, plane) for plane in self.slices], 1)

    def _images(self, volume: Tensor, plane: str) -> Tensor:
        axis = PLANES[plane]
        cut = volume.index_select(axis, torch.tensor(self.slices[plane], device=volume.device))
        cut = cut.movedim(axis, 2).flatten(1, 2)[:, :, None]  # (B, C S, 1, H', W')
        image = F.interpolate(
            cut.flatten(0, 1), self.image_size, mode="bilinear", antialias=True, align_corners=False
        )
        return ((image - self.mean) / self.std).unflatten(0, cut.shape[:2])

    def slice_features(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b s f"]:
        """Compute the backbone's features of every slice."""
        image = self.images(volume)
        flat = image.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.encoder(flat).unflatten(0, image.shape[:2])

    @override
    def features(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        """Compute mean and maximum over the slices of each of the backbone's features."""
        features = self.slice_features(volume)
        return torch.cat([features.mean(1), features.amax(1)], 1)

    @override
    def summary(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        return self.slice_features(volume).mean(1)

    def slice_logits(
        self,
        volume: Float[Tensor, "b c w h d"],
        covariates: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b s k"]:
        """Compute one logit per class and slice, or per what the slices were put together to."""
        features = self.attention(self.slice_features(volume))
        if covariates is not None:
            covariates = covariates[:, None].expand(-1, features.shape[1], -1)
        return self.head(features, covariates)

    def forward(
        self,
        volume: Float[Tensor, "b c w h d"],
        covariates: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b k"]:
        """Compute one logit per class and scan."""
        logits = self.slice_logits(volume, covariates).float()
        if self.hparams["aggregation"] == "vote":
            votes = F.one_hot(logits.argmax(2), logits.shape[2]).float()
            return votes.mean(1).logit(EPSILON)
        if logits.shape[1] == 1 or self.predicts_number:
            return logits.mean(1)
        return logits.sigmoid().mean(1).logit(EPSILON)

    @override
    def load_start(self) -> None:
        backbone, weights = self.hparams["backbone"], self.hparams["weights"]
        load_weights_2d(self.encoder, backbone, weights, self.image_size[0])
        super().load_start()

    @override
    def training_loss(self, inputs: Sequence[Tensor], target: Tensor) -> Tensor:
        logits = self.slice_logits(*inputs)  # every slice answers for its scan
        target = target[:, None].expand(logits.shape)
        return self.loss(logits.flatten(0, 1), target.flatten(0, 1))


def choose_slices(num_voxels: int, num_slices: int, skip_first: int, skip_last: int) -> list[int]:
    """Choose every ⌊m/n⌋-th of the m slices between the ends that are left out.

    Raises:
        ValueError: If fewer slices remain than are wanted.
    """
    remaining = num_voxels - skip_first - skip_last
    if not 0 < num_slices <= remaining or min(skip_first, skip_last) < 0:
        raise ValueError(
            f"num_slices is {num_slices}, but skip_first {skip_first} and skip_last {skip_last} "
            f"leave {max(remaining, 0)} of {num_voxels} slices. Lower one of them."
        )
    step = remaining // num_slices
    return list(range(skip_first, skip_first + step * num_slices, step))
