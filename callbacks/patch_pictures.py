"""Show what a pretraining makes of a few validation patches."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from typing_extensions import override

from lightning_modules.pretraining.patch_pretraining import PatchPretraining

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class PatchPictures(Callback):
    """Save pictures/epoch_NN.png after each validation: a row for each of the model's `pictures`.

    Args:
        num_patches: Patches shown, the same at every epoch.
    """

    def __init__(self, num_patches: int = 12) -> None:
        self.num_patches = num_patches
        self.patches: torch.Tensor | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, PatchPretraining):
            raise ValueError(
                f"PatchPictures shows the `pictures` of a PatchPretraining; "
                f"{type(pl_module).__name__} is none. List other trainer.callbacks in your YAML."
            )

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
        assert isinstance(pl_module, PatchPretraining)
        with torch.no_grad(), pl_module.same_draws(0):
            shown = pl_module.pictures(self.patches)
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(exist_ok=True)  # a lost folder of the run is not made again
        path = folder / f"epoch_{trainer.current_epoch:02d}.png"
        rows = {name: volumes.float().cpu().numpy() for name, volumes in shown.items()}
        _draw(rows, self.patches.float().cpu().numpy(), path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [str(path)])


def _draw(rows: dict[str, np.ndarray], patches: np.ndarray, path: Path) -> None:
    size = (len(patches), len(rows) + 0.3)
    figure, axes = plt.subplots(
        len(rows), len(patches), figsize=size, squeeze=False, layout="constrained"
    )
    low, high = float(patches.min()), float(patches.max())
    for row, volumes in zip(axes, rows.values(), strict=True):
        middle = volumes.shape[-1] // 2
        for axis, volume in zip(row, volumes, strict=True):
            axis.imshow(volume[0, :, :, middle].T, cmap="gray", vmin=low, vmax=high, origin="lower")
            axis.set_axis_off()
    figure.suptitle(f"Validation patches, middle slice. From above: {', '.join(rows)}")
    figure.savefig(path, dpi=100)
    plt.close(figure)
