from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from torch.utils.data import DataLoader, TensorDataset

from callbacks.best_checkpoint import BestValidationCheckpoint


class Scripted(LightningModule):
    """Logs given validation scores; its one weight is the number of the epoch."""

    def __init__(self, scores):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scores = scores

    def training_step(self, batch, batch_idx):
        return (self.weight * 0).sum()

    def on_train_epoch_start(self):
        with torch.no_grad():
            self.weight.fill_(self.current_epoch)

    def validation_step(self, batch, batch_idx):
        accuracy, loss = self.scores[self.current_epoch]
        self.log_dict({"val/accuracy": accuracy, "val/loss": loss})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(tmp_path, scores, callback, ckpt_path=None, max_epochs=None):
    loader = DataLoader(TensorDataset(torch.zeros(1, 1)))
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=max_epochs or len(scores),
        callbacks=callback if isinstance(callback, list) else [callback],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Scripted(scores), loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return float(torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["weight"])


def test_without_a_monitor_the_last_epoch_is_kept(tmp_path):
    scores = [(0.5, 1.0), (0.9, 0.1), (0.7, 2.0)]
    assert _fit(tmp_path, scores, BestValidationCheckpoint()) == 2


def test_the_last_epoch_is_kept_of_a_training_that_stops_early_or_is_continued(tmp_path):
    scores = [(0.5, 1.0), (0.9, 0.1), (0.7, 2.0), (0.6, 3.0)]
    early = EarlyStopping("val/loss", patience=1)
    assert _fit(tmp_path, scores, [early, BestValidationCheckpoint()]) == 2
    (tmp_path / "b").mkdir()
    _fit(tmp_path / "b", scores, BestValidationCheckpoint(), max_epochs=2)
    last = tmp_path / "b" / "last.ckpt"
    assert _fit(tmp_path / "b", scores, BestValidationCheckpoint(), last, max_epochs=4) == 3


@pytest.mark.parametrize("monitor", [None, "val/accuracy"])
def test_where_weights_are_averaged_the_average_is_kept(tmp_path, monitor):
    scores = [(0.5, 1.0), (0.6, 1.0), (0.9, 1.0)]
    half = EMAWeightAveraging(decay=0.5)
    kept = _fit(tmp_path, scores, [half, BestValidationCheckpoint(monitor)])
    assert kept == (0 * 0.5 + 1 * 0.5) * 0.5 + 2 * 0.5  # the weights of the epochs are 0, 1, 2


def test_a_training_that_diverged_is_not_kept(tmp_path):
    scores = [(0.5, 1.0), (0.9, float("nan"))]
    with pytest.raises(ValueError, match=r"val/loss is NaN.*Lower --model\.lr"):
        _fit(tmp_path, scores, BestValidationCheckpoint())


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 1.0), (0.9, 2.0), (0.7, 0.1)], 1),
        ([(0.9, 2.0), (0.9, 1.0), (0.5, 0.1)], 1),
        ([(0.9, 1.0), (0.9, 1.0), (0.9, 1.0)], 0),
        ([(0.1, 9.0), (0.2, 9.0), (0.3, 9.0)], 2),
    ],
    ids=["highest", "tie goes to the lower loss", "then to the earlier epoch", "last"],
)
def test_the_best_epoch_is_kept(tmp_path, scores, best):
    assert _fit(tmp_path, scores, BestValidationCheckpoint("val/accuracy")) == best


def test_a_loss_can_be_the_monitor(tmp_path):
    callback = BestValidationCheckpoint("val/loss", "min", None)
    assert _fit(tmp_path, [(0.9, 2.0), (0.5, 1.0), (0.9, 1.5)], callback) == 1
    assert callback.best_score == 1.0


def test_the_best_score_survives_an_interruption(tmp_path):
    scores = [(0.5, 1.0), (0.9, 1.0), (0.7, 0.1), (0.8, 0.1)]
    _fit(tmp_path, scores, BestValidationCheckpoint("val/accuracy"), max_epochs=2)
    callback = BestValidationCheckpoint("val/accuracy")
    assert _fit(tmp_path, scores, callback, ckpt_path=str(tmp_path / "last.ckpt")) == 1
    assert callback.best_epoch == 1


@pytest.mark.parametrize(
    ("callback", "scores", "words"),
    [
        (BestValidationCheckpoint("val/nothing"), [(0.5, 1.0)], "'val/nothing' is not logged"),
        (
            BestValidationCheckpoint("val/accuracy"),
            [(0.5, float("nan"))],
            r"NaN: .* Lower --model\.lr",
        ),
    ],
)
def test_a_score_that_cannot_be_compared_is_an_error(tmp_path, callback, scores, words):
    with pytest.raises(ValueError, match=words):
        _fit(tmp_path, scores, callback)


def test_a_write_that_is_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    _fit(tmp_path, [(0.5, 1.0)], BestValidationCheckpoint("val/accuracy"))

    def cut_short(path, content):
        with path.open("wb") as stream:
            stream.write(content[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", cut_short)
    with pytest.raises(OSError, match="disk full"):
        _fit(tmp_path, [(0.9, 1.0)], BestValidationCheckpoint("val/accuracy"))
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == 0
    assert not list(tmp_path.glob("*.tmp"))
