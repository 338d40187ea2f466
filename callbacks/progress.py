"""One progress bar over all epochs of all folds, with the time left."""

import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm
from typing_extensions import override

BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar:24}| {elapsed}<{remaining}{postfix}"


class RunProgress(Callback):
    """Advance a bar that counts folds; one object serves all folds of a run.

    Args:
        num_folds: Folds to train, over all repeats.
        shown: Whether this process draws the bar.
    """

    def __init__(self, num_folds: int, *, shown: bool = True) -> None:
        self.num_done = 0
        self.bar = tqdm(
            total=num_folds,
            bar_format=BAR_FORMAT,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=not shown or not num_folds,
        )

    def begin(self, name: str) -> None:
        """Name the fold that comes now."""
        self.bar.set_description_str(name, refresh=False)

    def end(self) -> None:
        """Count the fold as done."""
        self.num_done += 1
        self._show(self.num_done)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        max_epochs = max(trainer.max_epochs or 1, 1)
        epochs = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        self._show(self.num_done + min(epochs / max_epochs, 1.0))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores = {
            name: f"{float(value):.3f}"
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        self.bar.set_postfix(scores, refresh=False)

    def _show(self, position: float) -> None:
        self.bar.update(position - self.bar.n)
