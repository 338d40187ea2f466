"""Both at once: restore what is hidden of two views of a patch, and match them.

Both losses see the same views, so that the encoder's batch norm has the statistics of one kind of
input: with views that nothing is hidden of next to patches with hidden blocks, its running
statistics fit neither.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_modules.pretraining.autoencoder import Decoder, encode
from lightning_modules.pretraining.contrastive import Contrastive
from lightning_modules.pretraining.intensity_changes import change_intensity
from lightning_modules.pretraining.masked import hide_blocks
from lightning_modules.pretraining.patch_pretraining import NOT_PLAIN

# Axes: B = batch; C = 1 channel; W, H, D = voxels along R, A, S.


class Hybrid(Contrastive):
    """Match two views of a patch as Contrastive does, and restore them as Masked does.

    Args:
        contrast_weight: Weight of the contrastive loss next to the restoration's, which is a
            share of the variance.
        hidden_share: Share of the blocks of a view that are hidden, in (0, 1).
        block: Voxels of a block along each axis.
        contrastive: What matching views needs, see Contrastive.
    """

    def __init__(
        self,
        contrast_weight: float = 0.1,
        hidden_share: float = 0.6,
        block: int = 4,
        **contrastive: Any,
    ) -> None:
        super().__init__(**contrastive)
        self.save_hyperparameters(ignore=NOT_PLAIN)
        self.decoder = Decoder(self.hparams["depth"], self.hparams["filters"])

    def damage(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b 1 w h d"]:
        """Change crops as the encoder is to see them."""
        changed = change_intensity(volume, self.intensity)
        return hide_blocks(changed, self.hparams["hidden_share"], self.hparams["block"])

    @override
    def losses(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        clean = torch.cat(self.crops(volume))
        latent, sizes = encode(self.encoder, self.damage(clean))
        projected = self.projector(self.readout(latent))
        contrast = self.nt_xent(*projected.chunk(2))
        return {
            "restoration": F.mse_loss(self.decoder(latent, sizes), clean),
            "contrast": self.hparams["contrast_weight"] * contrast,
        }

    @override
    def pictures(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        shown: dict[str, Tensor] = {}
        for name, clean in zip(("one view", "the other"), self.crops(volume), strict=True):
            damaged = self.damage(clean)
            restored = self.decoder(*encode(self.encoder, damaged))
            shown |= {name: clean, f"{name} as seen": damaged, f"{name} restored": restored}
        return shown
