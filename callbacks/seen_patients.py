"""Keep in every checkpoint what its weights have seen, whatever model they belong to."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from callbacks.whole_checkpoints import WholeCheckpoints
from lightning_modules.transfer import Seen


class SeenPatients(Callback):
    """Have seen patients, their scans and the model's class written into each checkpoint.

    Args:
        inherited: What the weights that the training starts from had seen.
    """

    def __init__(self, inherited: Seen = Seen()) -> None:
        self.inherited = inherited

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, model = trainer.datamodule, type(pl_module)  # type: ignore[attr-defined]
        checkpoints = trainer.strategy.checkpoint_io
        assert isinstance(checkpoints, WholeCheckpoints)
        checkpoints.facts = {  # Lightning asks no callback when it saves weights alone
            "seen_patients": sorted(data.training_patients | self.inherited.patients),
            "seen_scans": [data.training_scans, *self.inherited.scans],
            "seen_data_sets": sorted(self.inherited.data_sets),
            "class_path": f"{model.__module__}.{model.__qualname__}",
        }
