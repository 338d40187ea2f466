"""Which checkpoint an interrupted fold run continues from, and what is told about the others."""

import os
import random
import shutil
import signal

import pytest
import torch
from outcomes import assert_same_outcome

from callbacks.progress import RunProgress
from callbacks.stop_signals import TERMINATED
from commands.runs.resume import resume_point

NUM_CUTS = int(os.environ.get("MCTL_CUTS", "3"))


def _checkpoint(path, epoch, best_epoch=None):
    callbacks = {} if best_epoch is None else {"Best": {"best_epoch": best_epoch}}
    weights = {"weight": torch.arange(100)}
    torch.save(
        {"state_dict": weights, "seen_patients": ["p1"], "epoch": epoch, "callbacks": callbacks},
        path,
    )


@pytest.fixture
def folder(tmp_path):
    _checkpoint(tmp_path / "best.ckpt", epoch=2)
    _checkpoint(tmp_path / "previous.ckpt", epoch=3, best_epoch=2)
    _checkpoint(tmp_path / "last.ckpt", epoch=4, best_epoch=2)
    return tmp_path


def _cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _resume(folder):
    said = []
    path = resume_point(folder, said.append)
    return path and path.name, [line for line in said if line.startswith("warning")]


def test_the_newest_checkpoint_is_taken_without_a_warning(folder):
    assert _resume(folder) == ("last.ckpt", [])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_cut_checkpoint_is_skipped_and_named(folder, share):
    _cut(folder / "last.ckpt", share)
    name, (warning,) = _resume(folder)
    assert name == "previous.ckpt"
    assert f"{folder / 'last.ckpt'} cannot be read" in warning
    assert _resume(folder) == ("previous.ckpt", []), "it is put aside, and not told again"


def test_a_stop_between_two_renames_leaves_the_one_before(folder):
    (folder / "last.ckpt").unlink()
    assert _resume(folder) == ("previous.ckpt", [])


def test_without_a_whole_checkpoint_it_starts_again(folder):
    _cut(folder / "last.ckpt")
    _cut(folder / "previous.ckpt")
    name, warnings = _resume(folder)
    assert name is None
    assert "starts again" in warnings[-1]
    assert len(warnings) == 3
    assert _resume(folder) == (None, [])


def test_a_corrupt_best_checkpoint_is_trained_again_rather_than_predicted_with(folder):
    _cut(folder / "best.ckpt")
    name, (warning,) = _resume(folder)
    assert name is None
    assert "best.ckpt cannot be read" in warning
    assert "starts again" in warning
    assert not list(folder.glob("*.ckpt"))


def test_a_best_checkpoint_older_than_the_best_epoch_is_not_trusted(folder):
    _checkpoint(folder / "best.ckpt", epoch=1)
    name, (warning,) = _resume(folder)
    assert name is None
    assert "is of epoch 1, but the best was 2" in warning


def test_a_best_checkpoint_of_an_epoch_that_comes_again_is_fine(folder):
    _checkpoint(folder / "best.ckpt", epoch=4)
    assert _resume(folder) == ("last.ckpt", [])


@pytest.mark.slow
def test_a_training_whose_last_checkpoint_is_cut_ends_as_if_nothing_had_been(
    write_cohort, run_verb, tmp_path, monkeypatch, capsys
):
    def ask(self, trainer, *_):
        if trainer.current_epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    table = write_cohort(12)
    settings = ["--fold=0", "--model.dropout=0.3"]
    assert run_verb("finetune", table, "whole", *settings, epochs=5) == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "on_train_batch_end", ask)
        assert run_verb("finetune", table, "stopped", *settings, epochs=5) == TERMINATED
    generator = random.Random(os.environ.get("MCTL_SEED", "1"))
    for number in range(NUM_CUTS):
        run = tmp_path / f"cut{number}"
        shutil.copytree(tmp_path / "stopped", run)
        _cut(run / "repeat0_fold0/last.ckpt", generator.random())
        capsys.readouterr()
        assert run_verb("finetune", table, run.name, *settings, epochs=5) == 0
        said = capsys.readouterr().out
        assert said.count("warning: Checkpoint") == said.count("cannot be read") == 1
        assert "continues from" in said
        assert_same_outcome(tmp_path / "whole", run)
