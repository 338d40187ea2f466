"""Find synthetic lesions in healthy patches: whether there is one, and where.

Blobs of random shape, size, place, contrast and texture, and pieces of other patients, are put
into half of the patches; afterwards the intensities of all change, so that no single brightness
gives a lesion away.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_modules.pretraining.intensity_changes import IntensityChanges, change_intensity
from lightning_modules.pretraining.patch_pretraining import NOT_PLAIN, PatchPretraining

TEXTURE_KNOTS = 6  # of shape and texture along each axis
RARE = -4.0  # logit of a place before training: one voxel in a hundred is in a lesion
PLACE_WEIGHT = 10.0  # of places in a lesion next to places in none
MILD = IntensityChanges(
    curve=0.5, non_monotone=0, log_gamma=0.3, bias_field=0.2, blur=0.1, noise_std=0.05
)
# Axes: B = batch; C = 1 channel; F = filters; W, H, D = voxels along R, A, S.


@dataclass(frozen=True)
class LesionKind:
    """What lesions are like. Intensities count from the batch's least, 0, to its greatest, 1.

    Args:
        share: Share of the patches with tissue that get a lesion.
        radius: Least and greatest half axis of a blob, in voxels.
        irregular: How far the border leaves an ellipsoid, as a share of the radius.
        contrast: Least and greatest difference to the mean of the tissue that a blob covers; darker
            or brighter at random, but where that would leave 0 to 1 the other one.
        texture: Greatest spread of the texture of a blob.
        transplants: Share of the lesions that are pieces of another patient of the batch.
        tissue: Intensity above which a voxel is tissue; air gets no lesion.
    """

    share: float = 0.5
    radius: tuple[float, float] = (2.0, 6.0)
    irregular: float = 0.3
    contrast: tuple[float, float] = (0.3, 0.6)
    texture: float = 0.1
    transplants: float = 0.25
    tissue: float = 0.15


class Lesions(PatchPretraining):
    """Tell patches with a synthetic lesion from those without, and say where it is.

    Args:
        lesion: What lesions are like.
        intensity: How the intensities of all patches are changed, with and without lesion.
        encoder: What every pretraining has, see PatchPretraining.
    """

    def __init__(
        self,
        lesion: LesionKind = LesionKind(),
        intensity: IntensityChanges = MILD,
        **encoder: Any,
    ) -> None:
        super().__init__(**encoder)
        self.save_hyperparameters(ignore=NOT_PLAIN)
        self.lesion = lesion
        self.intensity = intensity
        self.head = nn.Conv3d(self.hparams["filters"], 2, kernel_size=1)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[1:], RARE)

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> tuple[Tensor, Tensor]:
        """Compute the logit of a lesion, (B,), and of each of its places, (B, W', H', D')."""
        presence, place = self.head(self.encoder(volume)).unbind(1)
        return presence.flatten(1).amax(1), place

    def task(self, volume: Float[Tensor, "b 1 w h d"]) -> tuple[Tensor, Tensor]:
        """Make what the encoder sees, (B, 1, W, H, D), and where lesions are, the same shape."""
        with_lesions, inside = put_lesions(volume, self.lesion)
        return change_intensity(with_lesions, self.intensity), inside

    @override
    def losses(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        seen, inside = self.task(volume)
        presence, place = self(seen)
        covered = F.adaptive_avg_pool3d(inside.to(place.dtype), place.shape[1:])[:, 0]
        there = inside.flatten(1).any(1).to(presence.dtype)
        return {
            "presence": F.binary_cross_entropy_with_logits(presence, there),
            "place": F.binary_cross_entropy_with_logits(
                place, covered, pos_weight=place.new_tensor(PLACE_WEIGHT)
            ),
        }

    @override
    def pictures(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        seen, inside = self.task(volume)
        found = F.interpolate(self(seen)[1][:, None].sigmoid(), size=volume.shape[2:])
        low, span = volume.amin(), volume.amax() - volume.amin()
        shown = {"lesion": inside.float(), "found": found}
        return {"as seen": seen} | {name: low + span * part for name, part in shown.items()}


def put_lesions(
    volume: Float[Tensor, "b 1 w h d"], kind: LesionKind
) -> tuple[Float[Tensor, "b 1 w h d"], Bool[Tensor, "b 1 w h d"]]:
    """Put a lesion into some of the volumes, at a random place in the tissue.

    Args:
        volume: Volumes, (B, 1, W, H, D).
        kind: What lesions are like.

    Returns:
        The volumes, and which of their voxels belong to a lesion.
    """
    low = volume.amin()
    span = (volume.amax() - low).clamp(min=1e-6)
    level = (volume - low) / span
    tissue = level > kind.tissue
    depth = _depth_inside(level, tissue, kind)  # above 0 inside a lesion
    gets = torch.rand(len(volume), 1, 1, 1, 1, device=volume.device) < kind.share
    inside = (depth > 0) & tissue & gets
    mean = (level * inside).sum((2, 3, 4), True) / inside.sum((2, 3, 4), True).clamp(min=1)
    least, most = kind.contrast
    contrast = least + (most - least) * torch.rand_like(mean)
    contrast = torch.where(torch.rand_like(mean) < 0.5, contrast, -contrast)
    leaves = (mean + contrast > 1) | (mean + contrast < kind.tissue)
    contrast = torch.where(leaves, -contrast, contrast)
    texture = _smooth_noise(volume) * kind.texture * torch.rand_like(mean)
    other = level.roll(1, 0).flip(2, 3)  # of the patient before, turned
    transplanted = torch.rand_like(mean) < kind.transplants
    content = torch.where(transplanted, other, (mean + contrast + texture).clamp(0, 1))
    weight = (4 * depth).clamp(0, 1) * inside  # a soft border
    return volume + span * weight * (content - level), inside


def _depth_inside(
    level: Float[Tensor, "b 1 w h d"], tissue: Bool[Tensor, "b 1 w h d"], kind: LesionKind
) -> Float[Tensor, "b 1 w h d"]:
    """Draw an irregular ellipsoid for each volume: 1 in its middle, 0 at its border."""
    num, device = len(level), level.device
    chance = tissue.flatten(1) + 1e-6  # a volume of air alone has its middle anywhere
    middle = torch.multinomial(chance.float(), 1)[:, 0]
    _, _, _, height, depth = level.shape
    middle = torch.stack(
        [middle // (height * depth), middle // depth % height, middle % depth], 1
    )  # (B, 3)
    axes = [torch.arange(size, device=device) for size in level.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (3, W, H, D)
    offset = places.flatten(1)[None] - middle[:, :, None]  # (B, 3, W * H * D)
    turn = torch.linalg.qr(torch.randn(num, 3, 3, device=device)).Q
    least, most = kind.radius
    radius = least + (most - least) * torch.rand(num, 3, 1, device=device)
    distance = ((turn @ offset.float()) / radius).square().sum(1).sqrt().view_as(level)
    return 1 - distance + kind.irregular * _smooth_noise(level)


def _smooth_noise(volume: Tensor) -> Tensor:
    """Draw smooth noise of about unit size, in the shape of the volumes."""
    knots = torch.randn(len(volume), 1, *[TEXTURE_KNOTS] * 3, device=volume.device)
    return F.interpolate(knots, size=volume.shape[2:], mode="trilinear", align_corners=True)
