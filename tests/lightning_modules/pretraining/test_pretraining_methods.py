from types import SimpleNamespace

import pytest
import torch

from lightning_modules.pretraining.autoencoder import Autoencoder
from lightning_modules.pretraining.contrastive import Contrastive, crop
from lightning_modules.pretraining.hybrid import Hybrid
from lightning_modules.pretraining.lesions import Lesions
from lightning_modules.pretraining.masked import Masked, hide_blocks

METHODS = [Autoencoder, Masked, Contrastive, Hybrid, Lesions]
PATCHES = torch.randn(6, 1, 12, 10, 8, generator=torch.Generator().manual_seed(0))


def _model(method, **settings):
    torch.manual_seed(0)
    return method(depth=2, filters=4, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_every_weight_and_is_validated_on_the_same_task(method, monkeypatch):
    model = _model(method)
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(model, "log_dict", lambda parts, **_: logged.update(parts))
    loss = model.training_step({"volume": PATCHES}, 0)
    loss.backward()
    assert torch.equal(logged["train/loss"], loss)
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters() if weight.ndim > 1)
    model.eval()
    validated = []
    for epoch in range(2):
        model.val_loss.reset()
        torch.manual_seed(epoch)
        model.validation_step({"volume": PATCHES}, 0)
        drawn = torch.rand(1)
        torch.manual_seed(epoch)
        assert torch.equal(drawn, torch.rand(1))  # training draws as if nothing had been validated
        validated.append(logged["val/loss"].compute().item())
    assert validated[0] == validated[1]
    assert 0 < validated[0] < 10
    parts = [name for name in logged if name not in ("train/loss", "val/loss")]
    names = {Hybrid: ("restoration", "contrast"), Lesions: ("presence", "place")}.get(method, ())
    assert parts == [f"{stage}/{name}" for stage in ("train", "val") for name in names]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_shows_pictures_and_keeps_plain_settings(method):
    model = _model(method).eval()
    shown = model.pictures(PATCHES)
    assert all(volumes.shape[:2] == (6, 1) and volumes.ndim == 5 for volumes in shown.values())
    assert {"depth", "filters", "norm", "init_ckpt"} <= set(model.hparams)
    plain = (int, float, str, type(None))
    assert all(isinstance(value, plain) for value in model.hparams.values())


def test_a_pretraining_starts_from_another_ones_encoder(tmp_path):
    source, target = _model(Masked), _model(Contrastive, init_ckpt=str(tmp_path / "a.ckpt"))
    with torch.no_grad():
        for weight in source.parameters():
            weight += 1
    torch.save({"state_dict": source.state_dict(), "seen_patients": []}, tmp_path / "a.ckpt")
    facts = {"spatial_shape": (12, 10, 8)}
    target._trainer = SimpleNamespace(datamodule=SimpleNamespace(facts=lambda: facts))
    target.setup("fit")
    for new, old in zip(target.encoder.parameters(), source.encoder.parameters(), strict=True):
        assert torch.equal(new, old)


def test_hidden_blocks_are_whole_and_as_many_as_asked_for():
    torch.manual_seed(0)
    hidden = hide_blocks(torch.ones(50, 2, 10, 8, 9), 0.6, 4) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert hidden.float().mean() == pytest.approx(0.6, abs=0.03)
    inner = hidden[:, 0, :8, :8, :8].unfold(1, 4, 4).unfold(2, 4, 4).unfold(3, 4, 4)
    shares = inner.float().mean((-3, -2, -1))
    assert set(shares.unique().tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"hidden_share is 1\.0"):
        hide_blocks(torch.ones(1, 1, 4, 4, 4), 1.0, 4)


def test_a_crop_lies_anywhere_in_its_own_volume():
    torch.manual_seed(0)
    volume = torch.arange(300 * 6 * 5 * 4.0).view(300, 1, 6, 5, 4)
    cut = crop(volume, (4, 5, 3))
    first = cut[:, 0, 0, 0, 0].long()
    assert torch.equal(first // 120, torch.arange(300))
    starts = first % 120
    assert set(starts.tolist()) == {20 * w + d for w in range(3) for d in range(2)}
    for each, whole, start in zip(cut, volume, starts.tolist(), strict=True):
        w, d = start // 20, start % 4
        assert torch.equal(each, whole[:, w : w + 4, :, d : d + 3])


def test_two_views_of_a_patch_differ_and_have_the_share_asked_for():
    one, other = _model(Contrastive, view_share=0.5).views(PATCHES)
    assert one.shape == other.shape == (6, 1, 6, 5, 4)
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="view_share is 0"):
        Contrastive(view_share=0)
