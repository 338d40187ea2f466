"""Keep the epoch with the best validation score, and the last epoch to continue from."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

BEST_NAME = "best.ckpt"
LAST_NAME = "last.ckpt"


class BestValidationCheckpoint(Checkpoint):
    """Write best.ckpt and last.ckpt into the trainer's `default_root_dir`.

    Ties go to the lower tie breaker, then to the earlier epoch (MCTL §3.3). Each file is written
    beside its final name and renamed, so that a killed run leaves whole files.

    Args:
        monitor: Name of the logged validation score.
        mode: Whether the highest or the lowest score is best.
        tie_breaker: Name of a logged value, lower is better; None keeps the earlier epoch.
    """

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: Literal["max", "min"] = "max",
        tie_breaker: str | None = "val/loss",
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.tie_breaker = tie_breaker
        self.best_key: list[float] = []
        self.best_epoch = -1

    @property
    def best_score(self) -> float:
        """The best validation score so far."""
        return self.best_key[0] if self.mode == "max" else -self.best_key[0]

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        key = self.key(trainer.callback_metrics)
        if not self.best_key or key > self.best_key:
            self.best_key, self.best_epoch = key, trainer.current_epoch
            _save(trainer, BEST_NAME, weights_only=True)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _save(trainer, LAST_NAME, weights_only=False)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best_key": self.best_key, "best_epoch": self.best_epoch}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_key = state_dict["best_key"]
        self.best_epoch = state_dict["best_epoch"]

    def key(self, logged: Mapping[str, Any]) -> list[float]:
        """What an epoch is judged by: larger is better, compared from left to right.

        Args:
            logged: Validation scores by name.

        Raises:
            ValueError: If one that is asked for is not there, or NaN.
        """
        key = []
        for name, sign in (
            (self.monitor, 1 if self.mode == "max" else -1),
            (self.tie_breaker, -1),
        ):
            if name is None:
                continue
            if name not in logged:
                raise ValueError(
                    f"The checkpoint's monitor {name!r} is not logged; "
                    f"choose from {sorted(logged)}."
                )
            value = float(logged[name])
            if math.isnan(value):
                raise ValueError(f"{name} is NaN: the training diverged. Lower --model.lr.")
            key.append(sign * value)
        return key


def _save(trainer: Trainer, name: str, *, weights_only: bool) -> None:
    path = Path(trainer.default_root_dir) / name
    unfinished = path.with_suffix(".tmp")
    trainer.save_checkpoint(unfinished, weights_only=weights_only)
    if trainer.is_global_zero:
        os.replace(unfinished, path)
    trainer.strategy.barrier()
