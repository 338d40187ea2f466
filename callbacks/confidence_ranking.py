"""Write what was predicted for every scan, and rank the scans so that doubtful ones come first."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from evaluation.predictions import prediction_table, ranking_table, write_table
from evaluation.regression import regression_table, spread_ranking


class ConfidenceRanking(Callback):
    """Write predictions.csv and ranking.csv of a fold into the trainer's `default_root_dir`.

    Those are the test scans. What was predicted for other scans, a validation part, goes to
    validation.csv. Each scan is written once, whatever the number of devices.
    """

    def __init__(self) -> None:
        self.outputs: dict[int, list[float]] = {}

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs = {}

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rows, found = outputs["row"].tolist(), outputs.get("prob", outputs.get("value")).tolist()
        self.outputs.update(zip(rows, found, strict=True))

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        outputs = _merge_ranks(self.outputs)
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir)
        tested = set(data.rows["test"].tolist())
        if validated := sorted(outputs.keys() - tested):
            write_table(_table(data, validated, outputs), folder / "validation.csv")
        predictions = _table(data, sorted(outputs.keys() & tested), outputs)
        rank = spread_ranking if "target" in predictions else ranking_table
        write_table(rank(predictions), folder / "ranking.csv")
        write_table(predictions, folder / "predictions.csv")


def _table(data: Any, rows: list[int], outputs: dict[int, list[float]]) -> pd.DataFrame:
    scans, found = [data.cohort.scans[row] for row in rows], [outputs[row] for row in rows]
    place = {"repeat": data.repeat, "fold": data.fold, "labels_per": data.labels_per}
    if data.class_names:
        return prediction_table(scans, found, data.class_names, **place)
    values = data.target_scale.restore(np.array(found))[:, 0]
    return regression_table(scans, data.cohort.targets[rows], values, **place)


def _merge_ranks(outputs: dict[int, list[float]]) -> dict[int, list[float]]:
    """Collect {row: probs} from all processes; every process gets all rows."""
    if not torch.distributed.is_initialized():
        return outputs
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, outputs)
    return {row: probs for part in parts for row, probs in part.items()}
