"""A training that is asked to stop saves in mid-epoch, and ends as if it had never stopped."""

import os
import signal

import pytest
from outcomes import assert_same_outcome

from callbacks.progress import RunProgress
from callbacks.stop_signals import SAVED

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
    assert_same_outcome(tmp_path / "whole", tmp_path / "broken")
