"""A training that is asked to stop saves in mid-epoch, and ends as if it had never stopped."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.best_checkpoint import BestValidationCheckpoint
from callbacks.progress import RunProgress
from callbacks.stop_signals import SAVED, TERMINATED, Stopped, StopSignals

HARD = [
    *("--model.dropout=0.3", "--model.mixup=0.4", "--data.sampling=balanced"),
    *("--model.finetuning.schedule=cosine", "--model.finetuning.warmup_epochs=0.5"),
    *("--trainer.deterministic=true", "--data.batch_size=2"),
]


@pytest.fixture
def ask_to_stop(monkeypatch):
    """Return a function that sends a signal during the batches with the given global numbers."""

    def arrange(batches, number=signal.SIGUSR1):
        waiting = set(batches)
        original = RunProgress.on_train_batch_end

        def ask(self, trainer, module, outputs, batch, batch_idx):
            place = (trainer.datamodule.fold, trainer.current_epoch, batch_idx)
            if place in waiting:
                waiting.remove(place)
                os.kill(os.getpid(), number)
            original(self, trainer, module, outputs, batch, batch_idx)

        monkeypatch.setattr(RunProgress, "on_train_batch_end", ask)
        return waiting

    return arrange


def _same_outcome(whole, broken, names=("best.ckpt",)):
    for path in sorted(whole.rglob("best.ckpt")):
        weights = [
            torch.load(folder / path.relative_to(whole), weights_only=True)
            for folder in (whole, broken)
        ]
        assert weights[0]["epoch"] == weights[1]["epoch"]
        for name, tensor in weights[0]["state_dict"].items():
            assert torch.equal(tensor, weights[1]["state_dict"][name]), name
    for name in ("predictions.csv", "validation.csv"):
        if (whole / name).exists():
            assert (whole / name).read_bytes() == (broken / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        ([], [(0, 0, 0), (1, 1, 1), (1, 2, 2), (2, 2, 1)]),
        pytest.param(["--data.num_workers=2"], [(0, 1, 0), (2, 0, 1)], marks=pytest.mark.slow),
        pytest.param(
            ["--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"],
            [(0, 1, 0), (0, 2, 1), (1, 0, 2)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "workers", "accumulating"],
)
def test_a_training_that_saves_in_mid_epoch_ends_like_one_that_was_not_stopped(
    write_cohort, run_verb, tmp_path, ask_to_stop, settings, batches
):
    table = write_cohort(12)
    assert run_verb("finetune", table, "whole", *HARD, *settings, epochs=3) == 0
    waiting = ask_to_stop(batches)
    for _ in batches:
        assert run_verb("finetune", table, "broken", *HARD, *settings, epochs=3) == SAVED
    assert run_verb("finetune", table, "broken", *HARD, *settings, epochs=3) == 0
    assert not waiting
    _same_outcome(tmp_path / "whole", tmp_path / "broken")
