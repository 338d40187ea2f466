"""What a run needs of a model is checked before its first step."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from callbacks.best_checkpoint import BestValidationCheckpoint
from callbacks.confidence_ranking import ConfidenceRanking
from callbacks.model_contract import refuse_incomplete
from callbacks.required import required_callbacks
from callbacks.seen_patients import SeenPatients
from lightning_modules.transfer import Seen, read_seen

LABELLED = SimpleNamespace(class_names=["a", "b"])


class Plain(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self.num_steps = 0

    def forward(self, volume):
        return self.layer(volume.flatten(1))

    def training_step(self, batch, batch_idx):
        self.num_steps += 1
        return self(batch["volume"]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self(batch["volume"]).square().mean())

    def predict_step(self, batch, batch_idx):
        return {"row": batch["row"], "prob": self(batch["volume"]).sigmoid()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(LightningDataModule):
    class_names = ("a", "b")
    training_patients = frozenset({"p0", "p1"})
    training_scans: ClassVar[dict] = {}

    def train_dataloader(self):
        batch = {"volume": torch.rand(3, 1, 2, 2, 2), "label": torch.tensor([0, 1, 1])}
        return DataLoader([batch | {"row": torch.arange(3)}], batch_size=None)

    val_dataloader = train_dataloader


def _fit(model, tmp_path, *configured, inherited=Seen(), epochs=1):
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=epochs,
        callbacks=required_callbacks(configured, inherited),
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Data())


@pytest.mark.parametrize(
    "method",
    ["training_step", "validation_step", "configure_optimizers", "forward", "predict_step"],
)
def test_a_method_that_is_missing_is_named(method):
    names = [name for name in vars(Plain) if name not in (method, "__dict__", "__weakref__")]
    model = type("Lacking", (LightningModule,), {name: vars(Plain)[name] for name in names})
    model.__init__ = LightningModule.__init__
    with pytest.raises(ValueError, match=rf"^Lacking has no {method}: write one to .*\.$"):
        refuse_incomplete(model(), LABELLED)


def test_a_model_of_scans_without_labels_needs_no_prediction():
    model = type("Encoder", (Plain,), {"predict_step": LightningModule.predict_step})
    refuse_incomplete(model(), SimpleNamespace())
    with pytest.raises(ValueError, match="has no predict_step"):
        refuse_incomplete(model(), LABELLED)


@pytest.mark.parametrize(
    ("method", "body", "words"),
    [
        ("forward", lambda self, volume: volume[:, 0], r"forward returns a tensor .*\(3, 2, 2, 2"),
        ("predict_step", lambda self, batch, n: [1], "predict_step returns list: return {'row'"),
        ("predict_step", lambda self, batch, n: {"prob": 1}, r"the keys \['prob'\]: return"),
        (
            "predict_step",
            lambda self, batch, n: {"row": 0, "prob": self(batch["volume"]).softmax(1)},
            "prob is not the sigmoid of what forward returns",
        ),
        (
            "validation_step",
            lambda self, batch, n: self.log("val/error", 1.0),
            r"logs \['val/error'\], not val/loss: add self\.log",
        ),
    ],
)
def test_what_a_model_returns_and_logs_is_checked_before_the_first_step(
    tmp_path, method, body, words
):
    model = type("Mine", (Plain,), {method: body})()
    with pytest.raises(ValueError, match=rf"Mine\.{method}") as error:
        _fit(model, tmp_path)
    error.match(words)
    assert "\n" not in str(error.value)
    assert model.num_steps == 0


def test_a_monitor_that_is_not_logged_is_named_before_the_first_step(tmp_path):
    model = Plain()
    with pytest.raises(ValueError, match=r"monitor 'val/f1' is not logged; choose from \['val/l"):
        _fit(model, tmp_path, BestValidationCheckpoint("val/f1"))
    assert model.num_steps == 0


@pytest.mark.parametrize("callback", [EarlyStopping, ModelCheckpoint])
def test_a_users_callback_that_monitors_what_is_not_logged_is_named(callback, tmp_path):
    model = Plain()
    words = rf"{callback.__name__} monitors 'val_loss', which is not logged; choose from \['val/l"
    with pytest.raises(ValueError, match=words):
        _fit(model, tmp_path, callback(monitor="val_loss"))
    assert model.num_steps == 0


def test_a_monitor_of_the_training_is_the_users_own_business(tmp_path):
    def training_step(self, batch, batch_idx):
        loss = Plain.training_step(self, batch, batch_idx)
        self.log("smooth_loss", loss)
        return loss

    model = type("Mine", (Plain,), {"training_step": training_step})()
    _fit(model, tmp_path, EarlyStopping("smooth_loss", check_on_train_epoch_end=True))
    assert model.num_steps == 1


def test_a_monitor_of_the_training_that_is_not_logged_is_named(tmp_path):
    with pytest.raises(ValueError, match="EarlyStopping monitors 'train_loss', which is not log"):
        _fit(Plain(), tmp_path, EarlyStopping("train_loss", check_on_train_epoch_end=True))


@pytest.mark.parametrize(
    "twin",
    [
        lambda: EarlyStopping("val/loss"),
        lambda: ModelCheckpoint(monitor="val/loss"),
        BestValidationCheckpoint,
    ],
)
def test_two_callbacks_that_a_checkpoint_cannot_tell_apart_are_refused(twin):
    with pytest.raises(ValueError, match="twice with the same settings, which a checkpoint"):
        required_callbacks([twin(), twin()])
    required_callbacks([EarlyStopping("val/loss"), EarlyStopping("val/accuracy")])
    required_callbacks([LearningRateMonitor(), LearningRateMonitor()])  # have no state


def test_a_users_checkpoint_is_written_next_to_the_required_ones(tmp_path):
    own = ModelCheckpoint(tmp_path / "own/deep", filename="mine", monitor="val/loss")
    _fit(Plain(), tmp_path, own, EarlyStopping("val/loss"))
    assert sorted(path.name for path in tmp_path.rglob("*.ckpt")) == [
        *("best.ckpt", "last.ckpt", "mine.ckpt")
    ]


def test_a_plain_model_is_trained_and_its_checkpoints_know_what_they_have_seen(tmp_path):
    model = Plain()
    _fit(model, tmp_path, inherited=Seen({"p9"}, [{"marks": torch.ones(1)}]), epochs=2)
    assert model.num_steps == 2
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(tmp_path / name, weights_only=True)
        seen = read_seen(checkpoint)
        assert seen.patients == {"p0", "p1", "p9"}
        assert len(seen.scans) == 2
        assert checkpoint["class_path"].endswith("test_model_contract.Plain")


def test_a_configured_callback_takes_the_place_of_the_required_one():
    mine = BestValidationCheckpoint("val/accuracy")
    found = required_callbacks([mine])
    assert [each for each in found if isinstance(each, BestValidationCheckpoint)] == [mine]
    kinds = {type(each) for each in found}
    assert {ConfidenceRanking, SeenPatients} <= kinds
    assert kinds == {type(each) for each in required_callbacks()}


def test_a_configured_record_of_seen_patients_does_not_hide_the_inherited_ones(tmp_path):
    _fit(Plain(), tmp_path, SeenPatients(), inherited=Seen({"p9"}))
    assert "p9" in torch.load(tmp_path / "best.ckpt", weights_only=True)["seen_patients"]
