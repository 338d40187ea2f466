"""What a model minimises: cross-entropy, focal or AUC-margin loss, squared error; mixed batches."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

LossName = Literal["bce", "focal", "auc_margin", "mse", "huber"]
LOSSES: dict[bool, tuple[LossName, ...]] = {
    False: ("bce", "focal", "auc_margin"),
    True: ("mse", "huber"),
}
ClassWeights = Literal["none", "balanced"]


class Objective(nn.Module):
    """Compare one sigmoid output per class with the true class; the mean over scans and outputs.

    A single output is a number, compared with the standardised target.

    Args:
        num_classes: Number of classes; 1 is a number.
        loss: 'bce' is binary cross-entropy (MCTL §3.3); 'focal' scales it by (1 - p)^focal_gamma,
            where p is the probability that the output gives to the truth (Lin et al. 2017);
            'auc_margin' is `auc_margin_loss`, which batches with scans of each class need
            (--data.sampling=balanced) and which neither weights nor smooths. For a number: 'mse' is
            the squared error; 'huber' grows as the absolute error beyond one standard deviation of
            the training targets. None is 'bce' for classes and 'mse' for a number.
        class_weights: 'balanced' weights a scan by N / (K · N_class), counted among the fold's
            training scans: the loss of a training set where every class has equally many.
        focal_gamma: Exponent of the focal loss, at least 0; 0 is plain cross-entropy.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        auc_margin: By how much 'auc_margin' wants mean outputs of a class and the rest apart, in
            (0, 1].

    Raises:
        ValueError: If a number is out of its range, a setting does not go with the loss, or is for
            classes and a number is predicted, or the other way round.
    """

    weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        loss: LossName | None = None,
        class_weights: ClassWeights = "none",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        auc_margin: float = 1.0,
    ) -> None:
        super().__init__()
        if focal_gamma < 0:
            raise ValueError(f"focal_gamma is {focal_gamma}; set it to 0 or more.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {label_smoothing}; set it to at least 0, below 1."
            )
        fitting = LOSSES[num_classes == 1]
        loss = loss or fitting[0]
        what = "a number is" if num_classes == 1 else "classes are"
        if loss not in fitting:
            raise ValueError(f"loss is {loss}, but {what} predicted: use {' or '.join(fitting)}.")
        if num_classes == 1 and (class_weights != "none" or label_smoothing):
            raise ValueError(
                "class_weights and label_smoothing are for classes, but a number is predicted: "
                "drop them."
            )
        if not 0 < auc_margin <= 1:
            raise ValueError(f"auc_margin is {auc_margin}; set it above 0, at most to 1.")
        if loss == "auc_margin" and (class_weights != "none" or label_smoothing):
            raise ValueError(
                "The loss auc_margin counts classes alike by itself: drop class_weights and "
                "label_smoothing."
            )
        self.loss = loss
        self.auc_margin = auc_margin
        self.num_classes = num_classes
        self.focal_gamma = focal_gamma if loss == "focal" else 0.0
        self.label_smoothing = label_smoothing
        balanced = class_weights == "balanced"  # only then a checkpoint holds weights
        self.register_buffer("weights", torch.ones(num_classes) if balanced else None)

    def balance(self, counts: Sequence[int]) -> None:
        """Set the weights of `class_weights` 'balanced'; a checkpoint keeps them.

        Args:
            counts: Training scans of each class.

        Raises:
            ValueError: If a class has none.
        """
        assert self.weights is not None
        if 0 in counts:
            raise ValueError(
                f"Class number {counts.index(0)} has no training scan in this fold and cannot be "
                "weighted. Set class_weights to none, or merge classes."
            )
        balanced = [sum(counts) / (len(counts) * count) for count in counts]
        self.weights.copy_(torch.tensor(balanced))

    def forward(
        self, logits: Float[Tensor, "b k"], truth: Int[Tensor, " b"] | Shaped[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Compute the loss of a batch.

        Args:
            logits: One per class, (B, K).
            truth: Class index of each scan, (B,), or its share in each class or standardised
                target, (B, K).
        """
        if self.loss == "mse":
            return F.mse_loss(logits, truth)
        if self.loss == "huber":
            return F.huber_loss(logits, truth)
        target = truth if truth.ndim == 2 else F.one_hot(truth, self.num_classes)
        target = target.to(logits.dtype)
        if self.loss == "auc_margin":
            return auc_margin_loss(logits, target, self.auc_margin)
        weight = None if self.weights is None else (target * self.weights).sum(-1, keepdim=True)
        target = target * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if not self.focal_gamma:
            return F.binary_cross_entropy_with_logits(logits, target, weight)
        loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
        miss = target * (-logits).sigmoid() + (1 - target) * logits.sigmoid()  # (B, K)
        return (loss * miss**self.focal_gamma).mean()


def mix_up(*tensors: Shaped[Tensor, "b *_"], alpha: float) -> tuple[Tensor, ...]:
    """Blend each scan with another scan of the batch, in all that is known (Zhang et al. 2018).

    The share and the partners come from torch's generator, which a run seeds before every step. A
    contrast that the other scan lacks stays as it is.

    Args:
        tensors: Volumes (B, C, W, H, D), perhaps covariates (B, P), targets (B, K).
        alpha: The share is drawn from Beta(alpha, alpha), once a batch; 0 mixes nothing.

    Raises:
        ValueError: If `alpha` is negative.
    """
    if (share := _kept_share("mixup", alpha)) == 1:
        return tensors
    partner = torch.randperm(len(tensors[0]))
    mixed = (share * each + (1 - share) * each[partner] for each in tensors)
    return tuple(
        torch.where(each[partner].isnan(), each, new)
        for each, new in zip(tensors, mixed, strict=True)
    )


def cut_mix(*tensors: Shaped[Tensor, "b *_"], alpha: float) -> tuple[Tensor, ...]:
    """Put a box of another scan of the batch into each scan (Yun et al. 2019), in 3D.

    The target, and covariates if there are any, are mixed by the share of voxels that were kept. A
    contrast that one of both lacks stays as it is. Random numbers are drawn as by `mix_up`.

    Args:
        tensors: Volumes (B, C, W, H, D), perhaps covariates (B, P), targets (B, K).
        alpha: The share that is kept is drawn from Beta(alpha, alpha), once a batch, before the box
            is cut at the border; 0 mixes nothing.

    Raises:
        ValueError: If `alpha` is negative.
    """
    if (share := _kept_share("cutmix", alpha)) == 1:
        return tensors
    volume, *others = tensors
    sizes = volume.shape[2:]
    centre = [int(torch.randint(size, (1,))) for size in sizes]
    box = cut_box(share, centre, sizes)
    partner = torch.randperm(len(volume))
    inside = (slice(None), slice(None), *box)
    here, there = volume[inside], volume[partner][inside]
    mixed = volume.clone()
    mixed[inside] = torch.where(here.isnan() | there.isnan(), here, there)
    kept = 1 - here[0, 0].numel() / volume[0, 0].numel()
    return mixed, *(kept * each + (1 - kept) * each[partner] for each in others)


def _kept_share(name: str, alpha: float) -> float:
    """Draw the share of itself that a scan keeps, in [0, 1]; 1, without a draw, if alpha is 0."""
    if alpha < 0:
        raise ValueError(f"{name} is {alpha}; set it to 0 or more.")
    return torch.distributions.Beta(alpha, alpha).sample().item() if alpha else 1.0


def cut_box(share: float, centre: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """The box that leaves a share of a volume, cut at the volume's border.

    Its sides are in the proportions of the volume's; of a picture it is a rectangle.

    Args:
        share: Of the voxels, to be kept, in [0, 1].
        centre: Voxel at the centre of the box.
        sizes: Voxels of the volume along each axis.
    """
    side = (1 - share) ** (1 / max(sum(size > 1 for size in sizes), 1))
    halves = [int(0.5 * side * size) if size > 1 else 1 for size in sizes]
    return tuple(
        slice(max(middle - half, 0), min(middle + half, size))
        for middle, half, size in zip(centre, halves, sizes, strict=True)
    )


def auc_margin_loss(
    logits: Float[Tensor, "b k"], target: Float[Tensor, "b k"], margin: float = 1.0
) -> Float[Tensor, ""]:
    """Compute the AUC-margin loss of Yuan et al. 2021, each class against the rest; their mean.

    With the probabilities p of a class, mean a among its scans and b among the others, it is the
    variance of p among its scans, and among the others, and max(0, margin - a + b)²: their
    equation for the best auxiliary variables, which a batch gives without a second optimizer. A
    class that all scans of the batch have, or none, has no loss; without any other it is 0.

    Args:
        logits: One per class.
        target: Share of each scan in each class.
        margin: Wanted difference of a and b.
    """
    prob = logits.sigmoid()
    weights = torch.stack([target, 1 - target])  # (2, B, K)
    totals = weights.sum(1, keepdim=True)
    weights = weights / totals.clamp(min=torch.finfo(prob.dtype).tiny)
    means = (weights * prob).sum(1, keepdim=True)  # (2, 1, K)
    variances = (weights * (prob - means) ** 2).sum((0, 1))
    both = (totals > 0).all(0)[0]  # (K,)
    losses = variances + (margin - means[0, 0] + means[1, 0]).clamp(min=0) ** 2
    return torch.where(both, losses, 0.0).sum() / both.sum().clamp(min=1)
