"""Settings of Lightning's trainer that no run can end with, told before the data are read."""

from typing import Any

UNFIT: dict[str, tuple[Any, str]] = {  # what a setting may be, and why nothing else will do
    "fast_dev_run": (
        (False, 0),
        "writes no checkpoint to predict with: try --trainer.max_epochs=1",
    ),
    "barebones": ((False,), "writes no checkpoint to predict with: leave it out"),
    "enable_checkpointing": ((None, True), "leaves no weights to predict with: leave it out"),
    "limit_predict_batches": ((None,), "leaves patients without a prediction: leave it out"),
    "overfit_batches": ((0,), "is not for a run: try --trainer.limit_train_batches"),
    "logger": (
        (None, True, False),
        "is not read: curves are in logs/metrics.csv of each fold, and in W&B with --wandb. Leave "
        "it out",
    ),
    "default_root_dir": ((None,), "is not read: say where with RUN=, and leave it out"),
}
ABOVE_0 = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches")


def refuse_trainer(trainer: Any) -> None:
    """Refuse what would train to the end, or not at all, and leave nothing to predict with.

    Args:
        trainer: The settings below `trainer` in YAML files and flags.

    Raises:
        ValueError: If there is something.
    """
    for name, (allowed, why) in UNFIT.items():
        if (value := trainer[name]) not in allowed:
            raise ValueError(f"--trainer.{name}={getattr(value, 'class_path', value)} {why}.")
    for name in ABOVE_0:
        if trainer[name] == 0:
            raise ValueError(f"--trainer.{name}=0 trains nothing: give more, or leave it out.")
    every, epochs = trainer["check_val_every_n_epoch"], trainer["max_epochs"]
    if epochs is None and (trainer["max_time"] is not None or trainer["max_steps"] > 0):
        epochs = -1  # for Lightning
    if epochs is not None and epochs < 0:
        raise ValueError(
            "--trainer.max_epochs has no end: progress and learning rates go by the number of "
            "epochs. Give --trainer.max_epochs=100; max_time or max_steps may end it earlier."
        )
    if every and epochs and 0 < epochs < every:
        raise ValueError(
            f"--trainer.check_val_every_n_epoch={every} is beyond --trainer.max_epochs={epochs}: "
            f"no epoch would be validated. Lower it to {epochs} or less."
        )
    callbacks = trainer["callbacks"] or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        name = callback.class_path.rpartition(".")[2]
        if name.endswith("ProgressBar"):
            raise ValueError(f"A run shows its own progress: drop {name} from trainer.callbacks.")
        if name == "Timer":  # its settings cannot be written down
            raise ValueError("Drop Timer from trainer.callbacks: set --trainer.max_time instead.")
