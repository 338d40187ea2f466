"""Stage one of MCTL (§3.4): a convolutional autoencoder learns 3D patches of a larger cohort."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_modules.encoder import Encoder
from lightning_modules.pretraining.patch_pretraining import NOT_PLAIN, PatchPretraining

# Axes: B = batch; C = 1 channel; F = filters; W, H, D = voxels along R, A, S.


class Autoencoder(PatchPretraining):
    """Reconstruct patches.

    Args:
        noise_std: Standard deviation of Gaussian noise added to the input but not to the target
            while training (denoising); 0 is the plain autoencoder. In units of the training set's
            divisor.
        encoder: What every pretraining has, see PatchPretraining.
    """

    def __init__(self, noise_std: float = 0.0, **encoder: Any) -> None:
        super().__init__(**encoder)
        self.save_hyperparameters(ignore=NOT_PLAIN)
        self.noise_std = noise_std
        self.decoder = Decoder(self.hparams["depth"], self.hparams["filters"])

    def damage(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b 1 w h d"]:
        """Change patches as the encoder is to see them."""
        if not (self.training and self.noise_std):
            return volume
        return volume + self.noise_std * torch.randn_like(volume)

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b 1 w h d"]:
        """Reconstruct patches."""
        return self.decoder(*encode(self.encoder, volume))

    @override
    def losses(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        return {"restoration": F.mse_loss(self(self.damage(volume)), volume)}

    @override
    def pictures(self, volume: Float[Tensor, "b 1 w h d"]) -> dict[str, Tensor]:
        return {"original": volume, "reconstruction": self(volume)}


class Decoder(nn.Module):
    """The encoder's mirror image: each level enlarges to the size of its counterpart and convolves.

    Args:
        depth: Number of convolutions.
        filters: Filters of all but the last, which has one.
    """

    def __init__(self, depth: int, filters: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv3d(filters, filters if level < depth - 1 else 1, kernel_size=3, padding=1)
            for level in range(depth)
        )
        self.to(memory_format=torch.channels_last_3d)  # as in the encoder

    def forward(
        self, latent: Float[Tensor, "b f w2 h2 d2"], sizes: list[torch.Size]
    ) -> Float[Tensor, "b 1 w h d"]:
        """Decode to `sizes`, the spatial shapes of the encoder's inputs from first to last."""
        steps = zip(self.convolutions, reversed(sizes), strict=True)
        for level, (convolution, size) in enumerate(steps):
            if level:
                latent = F.relu(latent)
            latent = convolution(F.interpolate(latent, size=size))  # (B, F or 1, *size)
        return latent


def encode(
    encoder: Encoder, volume: Float[Tensor, "b 1 w h d"]
) -> tuple[Float[Tensor, "b f w2 h2 d2"], list[torch.Size]]:
    """Encode volumes, and list the spatial shapes that each convolution saw."""
    sizes = []
    for block in encoder:
        sizes.append(volume.shape[2:])
        volume = block(volume)  # (B, F, W', H', D')
    return volume, sizes
