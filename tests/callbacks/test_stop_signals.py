"""A training that is asked to stop saves in mid-epoch, and ends as if it had never stopped."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from lightning import Trainer
from outcomes import assert_same_outcome

import main
from callbacks.progress import RunProgress
from callbacks.stop_signals import INTERRUPTED, SAVED, TERMINATED, Stopped, StopSignals

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
        pytest.param([], [(0, 0, 0), (1, 1, 1), (1, 2, 2), (2, 2, 1)], marks=pytest.mark.slow),
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


@pytest.mark.slow
def test_a_fold_that_stopped_early_is_not_trained_further_when_it_is_continued(
    write_cohort, run_verb, tmp_path, monkeypatch
):
    own = tmp_path / "own.yaml"
    own.write_text(
        "trainer:\n  callbacks+:\n    - class_path: lightning.pytorch.callbacks.EarlyStopping\n"
        "      init_args: {monitor: val/loss, patience: 1, min_delta: 10}\n"
    )

    parts = ["--fold=0", "--data.splits.val_fraction=0.2"]

    def ask(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    table = write_cohort(12)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "predict", ask)
        assert run_verb("finetune", table, "run", f"-c{own}", *parts, epochs=9) == TERMINATED
    assert run_verb("finetune", table, "run", f"-c{own}", *parts, epochs=9) == 0
    logs = [pd.read_csv(path) for path in tmp_path.glob("run/repeat0_fold0/logs/*/metrics.csv")]
    assert max(log["epoch"].max() for log in logs) == 1


def test_signals_wait_for_the_training_but_a_second_one_does_not(monkeypatch):
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    signals = StopSignals()
    signals.begin()
    signals.begin_training()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)  # the same request through another channel
    assert signals.exit_code == SAVED
    clock += 60
    with pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == SAVED


def test_outside_of_a_training_a_signal_ends_the_process_at_once():
    signals = StopSignals()
    for number, code in ((signal.SIGUSR1, 75), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        signals.begin()
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), number)
        assert stopped.value.code == code
    signals.begin()
    signals.begin_training()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        signals.end_training()


@pytest.mark.slow
def test_the_signals_of_a_whole_process_group_are_answered_from_the_first_line_on(
    write_cohort, tmp_path
):
    command = [sys.executable, "main.py", "finetune", "-cconfigs/finetune.yaml", "--wandb=disabled"]
    command += [f"--data.table={write_cohort(12)}", f"--run={tmp_path / 'run'}", "--fold=0"]
    command += [f"--data.cache_dir={tmp_path / 'cache'}", "--trainer.accelerator=cpu"]
    command += ["--data.num_workers=2", "--trainer.max_epochs=1000", "--model.filters=4"]
    last = tmp_path / "run/repeat0_fold0/last.ckpt"
    early = subprocess.Popen(command, start_new_session=True)
    time.sleep(1)
    os.killpg(early.pid, signal.SIGUSR1)
    assert early.wait(60) == SAVED
    training = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not last.exists() and training.poll() is None:
        time.sleep(0.1)
    os.killpg(training.pid, signal.SIGTERM)
    said = training.communicate(timeout=120)[1]
    assert training.returncode == TERMINATED, said
    assert "Stopped as asked; the same command continues" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_ctrl_c_saves_the_training_and_the_same_command_continues(
    write_cohort, run_verb, tmp_path, ask_to_stop, capsys
):
    table = write_cohort(12)
    ask_to_stop([(0, 1, 0)], signal.SIGINT)
    assert run_verb("finetune", table, "run", "--fold=0", epochs=3) == INTERRUPTED
    assert "the same command continues from here" in capsys.readouterr().err
    assert run_verb("finetune", table, "run", "--fold=0", epochs=3) == 0
    assert "repeat0_fold0 continues from" in capsys.readouterr().out


@pytest.mark.parametrize("code", [SAVED, TERMINATED, INTERRUPTED])
def test_a_stop_is_told_in_one_line_and_told_by_the_exit_code(code, monkeypatch, capsys):
    def stop(verb, arguments):
        raise Stopped(code)

    monkeypatch.setattr(main, "_run", stop)
    assert main.main(["finetune"]) == code
    assert capsys.readouterr().err == "Stopped as asked; the same command continues from here.\n"
