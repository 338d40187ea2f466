"""Average the weights of the last steps, and measure BatchNorm on the scans as they are."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override


class AveragedWeights(EMAWeightAveraging):
    """Validate, keep and predict with an exponential moving average of the weights.

    The running statistics of BatchNorm come from small batches of augmented copies, which
    interpolation has smoothed, and from weights that are gone. They are measured again for the
    averaged weights on the training scans as they are, like those of validation and test: without
    that, the models of different folds lean to different classes (docs/experiments.md). Norms that
    do not learn keep their statistics, and so do those of a datamodule without
    `plain_training_batches`.

    Args:
        decay: Share of the average that stays at each step; 0.98 averages over about 50 steps.
    """

    def __init__(self, decay: float = 0.98) -> None:
        super().__init__(decay=decay)
        self.learning: list[_BatchNorm] = []
        self.measured_step = -1

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        norms = (each for each in pl_module.modules() if isinstance(each, _BatchNorm))
        self.learning = [norm for norm in norms if norm.training]

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self.measure_norms(trainer, pl_module)

    def measure_norms(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure BatchNorm for the averaged weights, unless that was done after this step.

        Args:
            trainer: The trainer.
            pl_module: The model, with the averaged weights in it.
        """
        if self.measured_step == trainer.global_step:
            return
        self.measured_step = trainer.global_step
        batches = getattr(trainer.datamodule, "plain_training_batches", None)  # type: ignore[attr-defined]
        if batches is None or not self.learning:
            return
        momenta = [norm.momentum for norm in self.learning]
        for norm in self.learning:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in batches():
                pl_module.predict_step(trainer.strategy.batch_to_device(batch), 0)
        for norm, momentum in zip(self.learning, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
