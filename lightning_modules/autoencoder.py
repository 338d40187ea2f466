"""Stage one of MCTL (§3.4): a convolutional autoencoder learns 3D patches of a larger cohort."""

from typing import TypedDict

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_modules.encoder import Encoder, Norm, warn_if_thin
from lightning_modules.finetuning import fused_or_default

# Axes: B = batch; C = 1 channel; F = filters; W, H, D = voxels along R, A, S.


class PatchBatch(TypedDict):
    """What a step needs; volume: (B, 1, W, H, D)."""

    volume: Tensor


class Autoencoder(LightningModule):
    """Reconstruct patches; the encoder is what is kept.

    Args:
        depth: Number of convolutions of the encoder.
        filters: Filters of each convolution.
        pool: Pooling factor after each convolution.
        norm: Normalisation of what each pooling of the encoder keeps; the paper has none. The
            classifier that starts from it needs the same.
        noise_std: Standard deviation of Gaussian noise added to the input but not to the target
            (denoising); 0 is the plain autoencoder. In units of the training set's range.
        lr: Learning rate of Adam.
    """

    def __init__(
        self,
        depth: int = 3,
        filters: int = 16,
        pool: int = 2,
        norm: Norm = "batch",
        noise_std: float = 0.0,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.noise_std = noise_std
        self.lr = lr
        self.encoder = Encoder(depth, filters, pool, norm)
        self.decoder = Decoder(depth, filters)
        self.val_loss = MeanMetric()

    def forward(self, volume: Float[Tensor, "b 1 w h d"]) -> Float[Tensor, "b 1 w h d"]:
        """Reconstruct patches."""
        sizes = []
        latent = volume
        for block in self.encoder:
            sizes.append(latent.shape[2:])
            latent = block(latent)  # (B, F, W', H', D')
        return self.decoder(latent, sizes[::-1])

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            patch_shape = self.trainer.datamodule.facts()["spatial_shape"]  # type: ignore[attr-defined]
            warn_if_thin(self.encoder, patch_shape, "Patches")

    @override
    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        clean = batch["volume"]
        noisy = clean + self.noise_std * torch.randn_like(clean) if self.noise_std else clean
        loss = F.mse_loss(self(noisy), clean)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(clean))
        return loss

    @override
    def validation_step(self, batch: PatchBatch, batch_idx: int) -> None:
        clean = batch["volume"]
        self.val_loss.update(F.mse_loss(self(clean), clean), weight=len(clean))
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(clean))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = fused_or_default(self.trainer.gradient_clip_val)
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=fused)


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
        """Decode to `sizes`, the spatial shapes of the encoder's inputs from last to first."""
        for level, (convolution, size) in enumerate(zip(self.convolutions, sizes, strict=True)):
            if level:
                latent = F.relu(latent)
            latent = convolution(F.interpolate(latent, size=size))  # (B, F or 1, *size)
        return latent
