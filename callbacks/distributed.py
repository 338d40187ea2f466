"""What a run on several devices needs in order to be exact."""

import logging
import os
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

logger = logging.getLogger(__name__)


class DistributedRun(Callback):
    """Keep each scan on one rank, give every rank and step a seed, log what a step amounts to.

    Seeding every step makes noise and dropout a function of seed, epoch, batch and rank, so
    that a run continued from last.ckpt ends where an uninterrupted one would.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "trainer.use_distributed_sampler must be false: Lightning's sampler repeats scans "
                "to fill the last batch, and they would be counted twice."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        per_device = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        if trainer.world_size > 1 and trainer.is_global_zero and per_device is not None:
            steps = trainer.accumulate_grad_batches
            rates = sorted({group.get("initial_lr", group["lr"]) for group in _groups(trainer)})
            logger.info(
                "%d devices × batch %d × %d accumulated: effective batch size %d, learning rate %s "
                "(as configured, not scaled)",
                *(trainer.world_size, per_device, steps, trainer.world_size * per_device * steps),
                ", ".join(f"{rate:g}" for rate in rates),
            )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        base = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # set by seed_everything
        seed = step_seed(base, trainer.current_epoch, batch_idx, trainer.global_rank)
        if pl_module.device.type == "cpu":  # seeding devices that are not used costs milliseconds
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)


def step_seed(base: int, epoch: int, batch_idx: int, rank: int = 0) -> int:
    """Seed of everything random in one training step on one rank."""
    place = (base, epoch, batch_idx, rank)
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])


def _groups(trainer: Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
