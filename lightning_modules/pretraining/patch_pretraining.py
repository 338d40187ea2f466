"""What every pretraining does: its encoder, its start, its steps, its optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_modules.encoder import Encoder, Norm, warn_if_thin
from lightning_modules.finetuning import fused_or_default
from lightning_modules.transfer import load_encoder

NOT_PLAIN = ("intensity", "lesion")  # a checkpoint holds plain values only
# Axes: B = batch; C = 1 channel; W, H, D = voxels along R, A, S.


class PatchBatch(TypedDict):
    """What a step needs; volume: (B, 1, W, H, D)."""

    volume: Tensor


class PatchPretraining(LightningModule):
    """Teach an encoder on patches without labels; the encoder is what is kept.

    A subclass adds what its task needs, and defines `losses` and `pictures`. What it draws comes
    from torch's generator: a run seeds it before every training step, and `same_draws` for each
    validation batch, so that epochs are validated on the same task.

    Args:
        depth: Number of convolutions of the encoder.
        filters: Filters of each convolution.
        pool: Pooling factor after each convolution.
        norm: Normalisation of what each pooling of the encoder keeps; the paper has none. The
            classifier that starts from it needs the same.
        lr: Learning rate of Adam.
        init_ckpt: Checkpoint whose encoder is the starting point; None is random weights.
        volume_shape: Voxels of a whole volume along R, A, S, by which pictures are told; the
            command line takes it from the cohort.
    """

    def __init__(
        self,
        depth: int = 3,
        filters: int = 16,
        pool: int = 2,
        norm: Norm = "batch",
        lr: float = 1e-3,
        init_ckpt: str | None = None,
        volume_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=NOT_PLAIN)
        self.encoder = Encoder(depth, filters, pool, norm, spatial_shape=volume_shape or ())
        self.val_loss = MeanMetric()

    def losses(self, volume: Float[Tensor, "b c w h d"]) -> dict[str, Tensor]:
        """Compute the parts of the loss by name; their sum is minimised."""
        raise NotImplementedError

    def pictures(self, volume: Float[Tensor, "b c w h d"]) -> dict[str, Tensor]:
        """Compute what a picture shows of patches: rows of volumes by name."""
        return {"original": volume}

    def seen_shape(self, patch_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Voxels of what the encoder sees of a patch along R, A, S."""
        return patch_shape

    @contextmanager
    def same_draws(self, seed: int) -> Iterator[None]:
        """Draw the same random numbers inside each time, and leave those outside as they are."""
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            torch.manual_seed(seed)
            yield

    @override
    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        patch_shape = self.trainer.datamodule.facts()["spatial_shape"]  # type: ignore[attr-defined]
        warn_if_thin(self.encoder, self.seen_shape(patch_shape), "Patches")
        if init_ckpt := self.hparams["init_ckpt"]:
            load_encoder(self.encoder, init_ckpt)

    @override
    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        losses = self.losses(batch["volume"])
        loss = torch.stack([*losses.values()]).sum()
        self._log_parts("train", losses, batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["volume"]))
        return loss

    @override
    def validation_step(self, batch: PatchBatch, batch_idx: int) -> None:
        with self.same_draws(batch_idx):
            losses = self.losses(batch["volume"])
        self._log_parts("val", losses, batch)
        loss = torch.stack([*losses.values()]).sum()
        self.val_loss.update(loss, weight=len(batch["volume"]))
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(batch["volume"]))

    def _log_parts(self, stage: str, losses: dict[str, Tensor], batch: PatchBatch) -> None:
        if len(losses) > 1:
            parts = {f"{stage}/{name}": loss for name, loss in losses.items()}
            settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
            self.log_dict(parts, batch_size=len(batch["volume"]), **settings)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = fused_or_default(self.trainer.gradient_clip_val)
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"], fused=fused)
