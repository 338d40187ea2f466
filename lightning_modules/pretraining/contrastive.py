"""Find the other view of the same patch among all patches of a batch (SimCLR).

NT-Xent of Chen et al. 2020 (arXiv 2002.05709), as MONAI has it. Two crops of one patch, each
under an intensity change of its own, must get nearly the same features, and crops of other patches
other features: what is left to tell them apart is anatomy.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from lightning_modules.pretraining.intensity_changes import IntensityChanges, change_intensity
from lightning_modules.pretraining.patch_pretraining import NOT_PLAIN, PatchPretraining
from lightning_modules.readout import Readout

# Axes: B = batch; C = 1 channel; W, H, D = voxels along R, A, S.


class Contrastive(PatchPretraining):
    """Match two views of a patch.

    Args:
        view_share: Voxels of a view along each axis, as a share of the patch's, in (0, 1].
        temperature: Divisor of the similarities; the lower, the more the nearest other patches
            count.
        num_outputs: Outputs of the layers between the encoder and the loss, which are not kept.
        intensity: How the intensities of a view are changed.
        encoder: What every pretraining has, see PatchPretraining.

    Raises:
        ValueError: If `view_share` is out of its range.
    """

    def __init__(
        self,
        view_share: float = 0.75,
        temperature: float = 0.2,
        num_outputs: int = 64,
        intensity: IntensityChanges = IntensityChanges(),
        **encoder: Any,
    ) -> None:
        from monai.losses import ContrastiveLoss  # takes seconds, and few runs need it

        super().__init__(**encoder)
        self.save_hyperparameters(ignore=NOT_PLAIN)
        if not 0 < view_share <= 1:
            raise ValueError(f"view_share is {view_share}; set it to more than 0, at most 1.")
        self.intensity = intensity
        self.readout = Readout("mean_max")
        num_features = self.readout.num_features(self.hparams["filters"], (1, 1, 1))
        self.projector = nn.Sequential(
            nn.BatchNorm1d(num_features),  # what all patches share makes all pairs alike
            nn.Linear(num_features, 2 * num_outputs),
            nn.ReLU(),
            nn.Linear(2 * num_outputs, num_outputs),
        )
        self.nt_xent = ContrastiveLoss(temperature)

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b n"]:
        """Compute what views are matched by."""
        return self.projector(self.readout(self.encoder(volume)))

    def crops(self, volume: Float[Tensor, "b 1 w h d"]) -> list[Tensor]:
        """Cut two crops out of each patch."""
        shape = self.seen_shape(tuple(volume.shape[2:]))  # type: ignore[arg-type]
        return [crop(volume, shape) for _ in range(2)]

    def views(self, volume: Float[Tensor, "b 1 w h d"]) -> list[Tensor]:
        """Draw two views of each patch."""
        return [change_intensity(each, self.intensity) for each in self.crops(volume)]

    @override
    def losses(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        projected = self(torch.cat(self.views(volume)))
        return {"contrast": self.nt_xent(*projected.chunk(2))}

    @override
    def pictures(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        return dict(zip(("one view", "the other"), self.views(volume), strict=True))

    @override
    def seen_shape(self, patch_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        share = self.hparams["view_share"]
        width, height, depth = (max(round(share * size), 1) for size in patch_shape)
        return width, height, depth


def crop(
    volume: Float[Tensor, "b c w h d"], shape: tuple[int, int, int]
) -> Float[Tensor, "b c w2 h2 d2"]:
    """Cut a crop out of each volume, at a random place of its own.

    Args:
        volume: Volumes, (B, C, W, H, D).
        shape: Voxels of a crop along R, A, S, at most those of a volume.
    """
    free = torch.tensor(
        [full - size + 1 for full, size in zip(volume.shape[2:], shape, strict=True)]
    )
    places = (torch.rand(len(volume), 3) * free).long().tolist()
    width, height, depth = shape
    return torch.stack(
        [
            each[:, w : w + width, h : h + height, d : d + depth]
            for each, (w, h, d) in zip(volume, places, strict=True)
        ]
    )
