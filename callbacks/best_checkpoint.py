"""Keep the epoch with the best validation score, and where to continue from after a stop."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from callbacks.averaged_weights import AveragedWeights
from callbacks.stop_signals import Stopped, stop_signals
from callbacks.whole_checkpoints import BEST_NAME, LAST_NAME, WholeCheckpoints

LARGEST_SHARE = 0.02  # of the time that may go into saving at the ends of short epochs
SAVE = 1  # what the ranks agree on: nothing, to save, or the exit code to stop with


class BestValidationCheckpoint(Checkpoint):
    """Write best.ckpt and last.ckpt into the trainer's `default_root_dir`.

    best.ckpt holds the weights that predictions are made with: those of the last epoch, or of the
    epoch with the best validation score. A score of twenty validation scans is a noisy guide (one
    scan is 0.05 in accuracy): where the rate falls to 0 or weights are averaged, the last epoch is
    as good or better (docs/experiments.md). Ties go to the lower tie breaker, then to the earlier
    epoch (MCTL §3.3). last.ckpt is written
    after an epoch (after every one, unless epochs are so short that it would take more than a
    fiftieth of the time), in between every few minutes, and when the process is asked to stop; a
    training continued from it ends as one that was never stopped does. The one before stays as
    previous.ckpt. Each file is written next to its final name and renamed.

    Args:
        monitor: Name of the logged validation score, such as val/loss or val/accuracy (the
            paper's); None keeps the last epoch.
        mode: Whether the highest or the lowest score is best.
        tie_breaker: Name of a logged value, lower is better; None keeps the earlier epoch.
        save_every_minutes: Minutes after which an epoch that is not over yet is saved as well.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        tie_breaker: str | None = "val/loss",
        save_every_minutes: float = 15.0,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.tie_breaker = tie_breaker
        self.save_every_minutes = save_every_minutes
        self.best_key: list[float] = []
        self.best_epoch = -1
        self.stopped_early = False
        self.saved_at = 0.0
        self.saving_s = 0.0  # how long it took the last time
        self.wish = 0
        self.sums: dict[str, tuple[float, int]] = {}  # of an epoch's means, when saved within it

    @property
    def best_score(self) -> float:
        """The best validation score so far."""
        return self.best_key[0] if self.mode == "max" else -self.best_key[0]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeCheckpoints()

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell epoch and batch now: a scheduler asks for the loader before Lightning does so."""
        if trainer.state.fn == TrainerFn.FITTING and "loops" in checkpoint:
            trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.stopped_early  # else one more epoch would follow
        self.saved_at = time.monotonic()
        stop_signals.begin_training()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._go_on_summing(trainer)
        if not _between_steps(trainer, batch_idx + 1):
            return
        self._agree(trainer, 60 * self.save_every_minutes)
        if self.wish:
            self.sums = {
                name: (float(sum_.value), int(sum_.cumulated_batch_size))
                for name, sum_ in _means(trainer).items()
            }
            self._save_last(trainer)
            self.sums = {}
            self._stop_if_wished(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            return
        key = self.key(trainer.callback_metrics, trainer.current_epoch)
        if not self.best_key or key > self.best_key:
            self.best_key, self.best_epoch = key, trainer.current_epoch
            _save(trainer, BEST_NAME, weights_only=True)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopped_early = trainer.should_stop
        if self.monitor is None and _is_last_epoch(trainer):
            self.best_epoch = trainer.current_epoch
            self.best_key = self.key(trainer.callback_metrics, self.best_epoch)
            _save(trainer, BEST_NAME, weights_only=True)
        self._agree(trainer, self.saving_s / LARGEST_SHARE)
        if self.wish:
            self._save_last(trainer)  # and stop when the epoch's curves are written

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_wished(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_wished(trainer)
        stop_signals.end_training()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.best_epoch < 0:
            raise ValueError(
                "The training ended before an epoch did, and there is nothing to predict with. "
                "Raise --trainer.max_time, max_steps or max_epochs, whichever ended it."
            )

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        stop_signals.patient = False

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stop_signals.listen()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "best_key": self.best_key,
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early,
            "sums": self.sums,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_key = state_dict["best_key"]
        self.best_epoch = state_dict["best_epoch"]
        self.stopped_early = state_dict.get("stopped_early", False)
        self.sums = state_dict.get("sums", {})

    def key(self, logged: Mapping[str, Any], epoch: int) -> list[float]:
        """What an epoch is judged by: larger is better, compared from left to right.

        Args:
            logged: Validation scores by name.
            epoch: The epoch; without a monitor the later one is better.

        Raises:
            ValueError: If one that is asked for is not there, or NaN.
        """
        if self.monitor is None:
            _refuse_nan({name: value for name, value in logged.items() if name.endswith("/loss")})
            return [float(epoch)]
        self.refuse_missing(logged)
        scores = self._signs()
        _refuse_nan({name: logged[name] for name in scores})
        return [sign * float(logged[name]) for name, sign in scores.items()]

    def refuse_missing(self, logged: Mapping[str, Any]) -> None:
        """Raise if a score that is asked for is not logged."""
        if missing := [name for name in self._signs() if name not in logged]:
            raise ValueError(
                f"The checkpoint's monitor {missing[0]!r} is not logged; "
                f"choose from {sorted(logged)}."
            )

    def _signs(self) -> dict[str, int]:
        """The scores that decide, in their order: 1 where higher is better, else -1."""
        if self.monitor is None:
            return {}
        signs = {self.monitor: 1 if self.mode == "max" else -1}
        if self.tie_breaker is not None:
            signs.setdefault(self.tie_breaker, -1)
        return signs

    def _go_on_summing(self, trainer: Trainer) -> None:
        """Add to the means of the epoch what was summed before the checkpoint."""
        for name, (value, num_scans) in self.sums.items():
            mean = _means(trainer)[name]
            mean.value = mean.value + value
            mean.cumulated_batch_size = mean.cumulated_batch_size + num_scans
        self.sums = {}

    def _agree(self, trainer: Trainer, pause_s: float) -> None:
        """Set the wish of all: ranks get a signal at different batches, and have other clocks.

        Args:
            trainer: The trainer.
            pause_s: Seconds after the last checkpoint that the next one is due.
        """
        is_due = time.monotonic() - self.saved_at >= pause_s
        self.wish = stop_signals.exit_code or SAVE * is_due
        if trainer.world_size > 1:
            wishes = torch.tensor(self.wish, device=trainer.strategy.root_device)
            self.wish = int(trainer.strategy.reduce(wishes, reduce_op="max"))

    def _stop_if_wished(self, trainer: Trainer) -> None:
        if self.wish > SAVE:
            # a process that rank 0 started must not look failed, or rank 0 would be killed for it
            environment = getattr(trainer.strategy, "cluster_environment", None)
            is_child = isinstance(environment, LightningEnvironment) and trainer.global_rank > 0
            raise Stopped(0 if is_child else self.wish)

    def _save_last(self, trainer: Trainer) -> None:
        begun = time.monotonic()
        _save(trainer, LAST_NAME, weights_only=False)
        self.saved_at = time.monotonic()
        self.saving_s = self.saved_at - begun


def _is_last_epoch(trainer: Trainer) -> bool:
    epochs = trainer.current_epoch + 1
    limits = ((epochs, trainer.max_epochs), (trainer.global_step, trainer.max_steps))
    return trainer.should_stop or any(
        done >= limit for done, limit in limits if limit not in (None, -1)
    )


def _refuse_nan(scores: Mapping[str, Any]) -> None:
    for name, value in scores.items():
        if math.isnan(float(value)):
            raise ValueError(f"{name} is NaN: the training diverged. Lower --model.lr.")


def _between_steps(trainer: Trainer, num_batches: int) -> bool:
    """Whether a training can go on exactly from here: no gradients are kept, no validation is due.

    Args:
        trainer: The trainer.
        num_batches: Batches of the epoch that are done.
    """
    every = trainer.val_check_batch or math.inf
    validates = num_batches % every == 0
    accumulates = num_batches % trainer.accumulate_grad_batches != 0
    return not (trainer.is_last_batch or validates or accumulates)


def _means(trainer: Trainer) -> dict[str, Any]:
    """What the steps log as means over the epoch; Lightning keeps it out of its checkpoints."""
    results = trainer.fit_loop.epoch_loop._results
    return {name: sum_ for name, sum_ in results.items() if hasattr(sum_, "cumulated_batch_size")}


def _save(trainer: Trainer, name: str, *, weights_only: bool) -> None:
    path = Path(trainer.default_root_dir) / name
    if not weights_only:  # WeightAveraging adds its weights itself
        trainer.save_checkpoint(path, weights_only=False)
        return
    with _averaged_weights(trainer):
        trainer.save_checkpoint(path, weights_only=True)


@contextmanager
def _averaged_weights(trainer: Trainer) -> Iterator[None]:
    """Put the averaged weights into the model, as for validation, where some are kept."""
    averages = [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
    for average in averages:
        average._swap_models(trainer.lightning_module)
        if isinstance(average, AveragedWeights):  # where no patient validates, nothing has so far
            average.measure_norms(trainer, trainer.lightning_module)
    try:
        yield
    finally:
        for average in averages:
            average._swap_models(trainer.lightning_module)
