from types import SimpleNamespace

import pytest
import torch

from lightning_modules.classifier import Classifier
from lightning_modules.encoder import Encoder
from lightning_modules.pretraining.autoencoder import Autoencoder
from lightning_modules.transfer import check_start, load_encoder, read_checkpoint, refuse_overlap


@pytest.fixture
def save(tmp_path):
    def save(model, seen=("p1", "p2")):
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": model.state_dict(), "seen_patients": list(seen)}, path)
        return path

    return save


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_first_convolutions_are_equal_after_transfer(save, depth):
    source = Autoencoder(depth=3, filters=4)
    target = Encoder(depth, 4, norm="batch")
    before = [weight.clone() for weight in target.parameters()]
    load_encoder(target, save(source))
    for old, new, expected in zip(
        before, target.parameters(), source.encoder.parameters(), strict=False
    ):
        assert torch.equal(new, expected)
        assert new.ndim == 1 or not torch.equal(new, old)  # norms begin at 1 and 0


def test_a_classifier_can_be_the_source_of_another(save):
    source = Classifier(2, (8, 8, 8), filters=4)
    target = Classifier(3, (9, 9, 9), filters=4)
    load_encoder(target.encoder, save(source))
    for new, expected in zip(target.encoder.parameters(), source.encoder.parameters(), strict=True):
        assert torch.equal(new, expected)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (Encoder(2, 8), r"'0\.0\.weight' is \(4, 1, 3, 3, 3\) .* but \(8, 1, 3, 3, 3\)"),
        (Encoder(3, 4, norm="batch"), r"no encoder weight '2\.0\.weight'"),
        (Encoder(2, 4, norm="none"), r"'0\.2\.weight', which the model lacks.*Give .* the norm"),
        (torch.nn.Linear(2, 2), "no encoder in common"),
    ],
)
def test_what_does_not_fit_is_named(save, encoder, words):
    with pytest.raises(ValueError, match=words):
        load_encoder(encoder, save(Autoencoder(depth=2, filters=4)))


def test_missing_corrupt_and_foreign_checkpoints_are_told_apart(tmp_path, save):
    with pytest.raises(ValueError, match="does not exist"):
        load_encoder(Encoder(1, 4), tmp_path / "none.ckpt")
    path = save(Autoencoder(filters=4))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="corrupt or not safe"):
        load_encoder(Encoder(1, 4), path)
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match="no weights with the patients"):
        load_encoder(Encoder(1, 4), path)


def test_a_checkpoint_with_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": {}, "seen_patients": [], "bomb": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(ValueError, match="not safe"):
        load_encoder(Encoder(1, 4), tmp_path / "bomb.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_an_overlap_names_the_patients():
    refuse_overlap({"a", "b"}, {"c"}, "x.ckpt")
    with pytest.raises(ValueError, match=r"pretrained on 2 patients of this fold's .*: a, b\."):
        refuse_overlap({"a", "b", "c"}, {"a", "b", "d"}, "x.ckpt")


def test_the_start_of_a_training_is_looked_up_and_refused(save):
    path = str(save(Autoencoder(filters=4)))
    assert check_start(path, SimpleNamespace(held_out_patients={"p3"})).patients == {"p1", "p2"}
    with pytest.raises(ValueError, match=r"pretrained on 1 patients .*: p2\."):
        check_start(path, SimpleNamespace(held_out_patients={"p2", "p3"}))
    assert check_start(None, None).patients == set()


def test_checkpoints_of_the_first_version_are_read(tmp_path):
    torch.save({"state_dict": {}, "ledger": ["p1"]}, tmp_path / "old.ckpt")
    assert read_checkpoint(tmp_path / "old.ckpt") == {"state_dict": {}, "seen_patients": ["p1"]}
