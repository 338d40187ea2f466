"""What a run needs of a model, checked before its first step; any LightningModule may be one."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from typing_extensions import override

from callbacks.best_checkpoint import BestValidationCheckpoint

TOLERANCE = 1e-2  # of outputs in half precision
FOR_TRAINING = {
    "training_step": "return the loss, and log train/loss",
    "validation_step": "log val/loss",
    "configure_optimizers": "return an optimizer",
}
FOR_PREDICTION = {
    "forward": "turn volumes (B, C, W, H, D) into one logit for each class, (B, K)",
    "predict_step": "return {'row': batch['row'], 'prob': the sigmoid of the logits, (B, K)}",
}
FOR_REGRESSION = {
    "forward": "turn volumes (B, 1, W, H, D) into one number for each scan, (B, 1)",
    "predict_step": "return {'row': batch['row'], 'value': what forward returns, (B, 1)}",
}


def refuse_incomplete(model: LightningModule, data: LightningDataModule) -> None:
    """Refuse a model without the methods that a run calls.

    Args:
        model: The model.
        data: Its data; only those with classes are predicted.

    Raises:
        ValueError: If one is missing.
    """
    needed = FOR_TRAINING | (FOR_PREDICTION if hasattr(data, "class_names") else {})
    for method, what in needed.items():
        if not is_overridden(method, model, LightningModule):
            raise ValueError(f"{type(model).__name__} has no {method}: write one to {what}.")
    _refuse_missing_contrasts(model, data)


def _refuse_missing_contrasts(model: LightningModule, data: Any) -> None:
    """Raise if a scan lacks a contrast that the model cannot do without."""
    if not hasattr(data, "cohort") or getattr(model, "takes_missing", False):
        return
    cohort = data.cohort
    if incomplete := cohort.incomplete:
        rows = ", ".join(str(scan.row) for scan in incomplete[:10])
        raise ValueError(
            f"{len(incomplete)} of {len(cohort.scans)} scans lack a contrast (rows {rows}"
            f"{', …' * (len(incomplete) > 10)} of {cohort.table}), which "
            f"{type(model).__name__} cannot do without. Set --model.fusion=encoders, or leave out "
            "these rows or that contrast."
        )


class ModelContract(Callback):
    """Refuse a model that does not log or return what a run needs, before its first step."""

    def __init__(self) -> None:
        self.checked = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.limit_val_batches:
            return
        for name, monitor in _monitors(trainer):
            raise ValueError(
                f"{name} monitors {monitor}, but no patient validates. Set "
                "--data.splits.val_fraction=0.2."
            )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        classes = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        if self.checked or classes is None:
            return
        self.checked = True
        key, needed, num_outputs = "prob", FOR_PREDICTION, len(classes)
        if not classes:
            key, needed, num_outputs = "value", FOR_REGRESSION, 1
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            more = batch.get("covariates")
            logits = pl_module(
                batch["volume"], *([more] if more is not None and more.shape[1] else [])
            )
            prediction = pl_module.predict_step(batch, 0)
        for module, mode in modes.items():
            module.training = mode
        name, shape = type(pl_module).__name__, (len(batch["label"]), num_outputs)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != shape:
            found = _describe(logits)
            raise ValueError(f"{name}.forward returns {found}: {needed['forward']}.")
        if not isinstance(prediction, dict) or not {"row", key} <= prediction.keys():
            found = _describe(prediction)
            raise ValueError(f"{name}.predict_step returns {found}: {needed['predict_step']}.")
        found, expected = prediction[key].float(), logits.float()
        expected = expected.sigmoid() if classes else expected
        if found.shape != expected.shape or (found - expected).abs().max() > TOLERANCE:
            what, call = ("the sigmoid of ", ".sigmoid()") if classes else ("", "")
            raise ValueError(
                f"{name}.predict_step: {key} is not {what}what forward returns, by which new scans "
                f"are predicted. Return self(batch['volume']){call}."
            )

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = trainer.callback_metrics
        if "val/loss" not in logged:
            raise ValueError(
                f"{type(pl_module).__name__}.validation_step logs {sorted(logged)}, not val/loss: "
                "add self.log('val/loss', loss)."
            )
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, BestValidationCheckpoint):
                callback.refuse_missing(logged)
        for name, monitor in _monitors(trainer):
            if monitor not in logged:
                raise ValueError(_unlogged(name, monitor, logged))

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Name a monitor of the training that is not logged, which its first epoch shows."""
        for name, monitor in _monitors(trainer, ""):
            if f"metric `{monitor}` which is not available" in str(exception):
                raise ValueError(_unlogged(name, monitor, trainer.callback_metrics)) from exception


def _unlogged(name: str, monitor: str, logged: Iterable[str]) -> str:
    return f"{name} monitors {monitor!r}, which is not logged; choose from {sorted(logged)}."


def _monitors(trainer: Trainer, kind: str = "val") -> Iterator[tuple[str, str]]:
    """The callbacks that look at a score whose name begins so, each with the score's name."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith(kind):
            yield type(callback).__name__, monitor


def _describe(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of the shape {tuple(found.shape)}"
    return f"the keys {sorted(found)}" if isinstance(found, dict) else type(found).__name__
