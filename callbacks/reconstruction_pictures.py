"""Show what an autoencoder makes of a few validation patches."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from typing_extensions import override

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class ReconstructionPictures(Callback):
    """Save reconstructions/epoch_NN.png after each validation: originals above, copies below.

    Args:
        num_patches: Patches shown, the same at every epoch.
    """

    def __init__(self, num_patches: int = 12) -> None:
        self.num_patches = num_patches
        self.patches: torch.Tensor | None = None

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0:
            self.patches = batch["volume"][: self.num_patches]

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or self.patches is None:
            return
        with torch.no_grad():
            copies = pl_module(self.patches)
        folder = Path(trainer.default_root_dir) / "reconstructions"
        folder.mkdir(exist_ok=True)  # a lost folder of the run is not made again
        path = folder / f"epoch_{trainer.current_epoch:02d}.png"
        _draw(self.patches.float().cpu().numpy(), copies.float().cpu().numpy(), path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/reconstructions", [str(path)])


def _draw(patches: np.ndarray, copies: np.ndarray, path: Path) -> None:
    middle = patches.shape[-1] // 2
    figure, axes = plt.subplots(
        2, len(patches), figsize=(len(patches), 2.3), squeeze=False, layout="constrained"
    )
    low, high = float(patches.min()), float(patches.max())
    for column, pair in enumerate(zip(patches, copies, strict=True)):
        for axis, patch in zip(axes[:, column], pair, strict=True):
            axis.imshow(patch[0, :, :, middle].T, cmap="gray", vmin=low, vmax=high, origin="lower")
            axis.set_axis_off()
    figure.suptitle("Validation patches, middle slice: original above, reconstruction below")
    figure.savefig(path, dpi=100)
    plt.close(figure)
