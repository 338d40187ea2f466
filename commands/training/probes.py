"""Train the heads of many folds side by side, and leave of each what a trained fold leaves."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from callbacks.best_checkpoint import BestValidationCheckpoint
from commands.runs.command_line import CommandLine
from commands.runs.run_folder import FoldRun
from commands.training.frozen_features import FrozenFold, part_batch, training_batches
from datamodules.scans import ScanDataModule
from evaluation.predictions import prediction_table, write_table
from lightning_modules.classifier import Classifier
from lightning_modules.finetuning import configure_finetuning
from lightning_modules.stacked_heads import Scores, StackedHeads, stacked_objective

STACK_BYTES = {"cpu": 2**24}  # a stack is quickest while it fits into the processor's cache
LARGEST_STACK_BYTES = 2**31
BYTES_PER_WEIGHT = 16  # the weight, its gradient and AdamW's two moments
Fold = tuple[FoldRun, FrozenFold]


def train_probes(cli: CommandLine, folds: Sequence[Fold]) -> None:
    """Train the configured head on the features of each fold.

    Args:
        cli: The command line; its model is the setting to train.
        folds: Folds that are not finished.
    """
    model, width = cli.config.model.init_args, folds[0][1].features.shape[-1]
    size = stack_size(width * (model.nodes or model.num_classes), folds[0][1].device)
    alike = sorted(folds, key=lambda fold: len(fold[1].sampler))
    with tqdm(total=len(folds), leave=False) as bar:
        for _, group in itertools.groupby(alike, key=lambda fold: len(fold[1].sampler)):
            members = list(group)
            for start in range(0, len(members), size):
                _train_stack(cli, members[start : start + size])
                bar.update(len(members[start : start + size]))


def stack_size(num_weights: int, device: torch.device) -> int:
    """How many heads of `num_weights` weights are trained together."""
    room = STACK_BYTES.get(device.type, LARGEST_STACK_BYTES)
    return max(room // (num_weights * BYTES_PER_WEIGHT), 1)


def _train_stack(cli: CommandLine, stack: Sequence[Fold]) -> None:
    """Train folds with equally many batches, so that their heads step together."""
    started = time.monotonic()
    folds = [fold for _, fold in stack]
    device = folds[0].device
    built = [cli.build(cell.repeat, cell.fold, None) for cell, _ in stack]
    models = [model for _, model, _ in built if isinstance(model, Classifier)]
    judge = _judge(built[0][0])
    for model, fold in zip(models, folds, strict=True):
        if model.hparams["class_weights"] == "balanced":
            model.loss.balance(fold.data.training_label_counts)
    heads = StackedHeads([model.head for model in models]).to(device)
    objective = stacked_objective([model.loss for model in models]).to(device)
    max_epochs = built[0][0].max_epochs or 0
    training = configure_finetuning(
        heads.parameters(),
        nn.Identity(),
        models[0].finetuning,
        lr=models[0].hparams["lr"],
        encoder_lr_factor=1.0,
        weight_decay=models[0].hparams["weight_decay"],
        max_epochs=max_epochs,
        num_steps=max_epochs * len(folds[0].sampler),
        fused=True,
    )
    optimizer, schedule = training["optimizer"], cast(Any, training["lr_scheduler"])["scheduler"]
    val, test = (part_batch(folds, part) for part in ("val", "test"))
    best: list[list[float]] = [[] for _ in folds]
    chosen: list[tuple[int, Tensor, Tensor]] = [(-1, torch.empty(0), torch.empty(0)) for _ in folds]
    curves: list[list[dict[str, float]]] = [[] for _ in folds]
    judged, after_step = _averaging(built[0][0], heads)
    for epoch in range(max_epochs):
        batches = training_batches(folds, epoch)
        losses = heads.train_epoch(batches, objective, optimizer, schedule, after_step).tolist()
        scores, tested = judged.evaluate(val, objective), judged.evaluate(test, objective).prob
        for row, logged in enumerate(_logged(scores)):
            curves[row].append({"epoch": epoch, "train/loss": losses[row]} | logged)
            key = judge.key(logged | {"train/loss": losses[row]}, epoch)
            if key > best[row]:
                best[row], chosen[row] = key, (epoch, scores.prob[row].cpu(), tested[row].cpu())
    seconds = (time.monotonic() - started) / len(folds)
    for row, (cell, fold) in enumerate(stack):
        epoch, val_prob, test_prob = chosen[row]
        _write_cell(cell, fold.data, val_prob, test_prob, pd.DataFrame(curves[row]))
        kept = curves[row][epoch]
        key = [kept["val/accuracy"], -kept["val/loss"]]  # by which a setting is chosen
        cell.finish({"wall_time_s": seconds, "best_epoch": epoch, "key": key})


def _judge(trainer: Trainer) -> BestValidationCheckpoint:
    """The callback that says which epoch is best."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BestValidationCheckpoint):
            return callback
    raise ValueError(
        "The trainer has no BestValidationCheckpoint, which chooses the epoch: add it to "
        "trainer.callbacks, as configs/finetune.yaml does."
    )


def _averaging(trainer: Trainer, heads: StackedHeads) -> tuple[StackedHeads, Callable[[], None]]:
    """The heads to judge, and what is to be called after each step, as WeightAveraging does.

    Args:
        trainer: The trainer of a fold, perhaps with Lightning's WeightAveraging.
        heads: The heads that are trained.
    """
    kept = [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
    if not kept:
        return heads, lambda: None
    average = AveragedModel(heads, use_buffers=True, **kept[0]._kwargs)
    steps = itertools.count()

    def update() -> None:
        if kept[0].should_update(step_idx=next(steps)):
            average.update_parameters(heads)

    return cast(StackedHeads, average.module), update


def _logged(scores: Scores) -> list[dict[str, float]]:
    """What fine-tuning logs after an epoch, for each head."""
    names = ("val/loss", "val/accuracy", "val/balanced_accuracy")
    columns = (scores.loss, scores.accuracy, scores.balanced_accuracy)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _write_cell(
    cell: FoldRun, data: ScanDataModule, val_prob: Tensor, test_prob: Tensor, curves: pd.DataFrame
) -> None:
    """Write a fold's tables and curves as a training through Lightning does."""
    logs = cell.folder / "logs" / "version_0"
    logs.mkdir(parents=True, exist_ok=True)
    write_table(curves, logs / "metrics.csv")
    parts = {"predictions.csv": ("test", test_prob)}
    if len(np.setdiff1d(data.rows["val"], data.rows["test"])):  # none by protocol 'paper'
        parts["validation.csv"] = ("val", val_prob)
    for name, (part, prob) in parts.items():
        rows = data.rows[part]
        table = prediction_table(
            [data.cohort.scans[row] for row in rows],
            prob[: len(rows)].tolist(),
            data.class_names,
            repeat=data.repeat,
            fold=data.fold,
            labels_per=data.labels_per,
        )
        write_table(table, cell.folder / name)
