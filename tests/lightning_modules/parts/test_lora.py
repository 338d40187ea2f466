import json
from types import SimpleNamespace

import pytest
import timm
import torch
from lightning import LightningModule
from safetensors.torch import save_file
from torch import nn

from lightning_modules.classifier import Classifier
from lightning_modules.deployment import FoldModel, onnx_difference, write_onnx
from lightning_modules.imagenet_baseline import ImageNetBaseline
from lightning_modules.parts.lora import freeze_or_adapt, with_updates
from lightning_modules.transfer import load_encoder

TINY = "test_vit3"  # of timm's own tests; images of one size


def _vit(**settings):
    torch.manual_seed(0)
    given = {"num_slices": 2, "weights": "none", "backbone": TINY, "image_size": 32} | settings
    return ImageNetBaseline(2, (6, 6, 6), **given)


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def test_an_adapted_layer_is_the_frozen_one_plus_a_product_of_rank_two():
    plain, network = _network(), _network()
    freeze_or_adapt(network, False, 2)
    rows = torch.randn(6, 5)
    assert torch.equal(network(rows), plain(rows))  # at the start
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {
        f"{layer}.parametrizations.weight.0.{part}" for layer in (0, 2) for part in ("up", "down")
    }
    update = network[0].parametrizations.weight[0]
    nn.init.normal_(update.up)
    by_hand = plain[0](rows) + rows @ update.down.T @ update.up.T
    torch.testing.assert_close(network[0](rows), by_hand)
    assert torch.linalg.matrix_rank(network[0].weight - plain[0].weight) == 2


def test_weights_of_a_plain_network_and_of_an_adapted_one_fit_an_adapted_one():
    plain, network, other = _network(), _network(), _network()
    for each in (network, other):
        freeze_or_adapt(each, False, 2)
        for name, weight in each.named_parameters():
            nn.init.normal_(weight) if "weight.0" in name else nn.init.zeros_(weight)
    before = network[0].parametrizations.weight[0].up.clone()
    network.load_state_dict(with_updates(plain.state_dict(), network.state_dict()))
    assert torch.equal(network[0].parametrizations.weight.original, plain[0].weight)
    assert torch.equal(network[0].parametrizations.weight[0].up, before)
    network.load_state_dict(with_updates(other.state_dict(), network.state_dict()))
    assert torch.equal(network[2].weight, other[2].weight)
    assert with_updates(plain.state_dict(), plain.state_dict()).keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("network", "frozen", "rank", "words"),
    [
        (nn.Conv3d(1, 1, 1), False, 2, "no linear layer to adapt. Choose a transformer"),
        (nn.Linear(1, 1), True, 2, "lora_rank is 2 and freeze_encoder True"),
        (nn.Linear(1, 1), False, -1, "set the rank to 1 or more"),
    ],
)
def test_what_cannot_be_adapted_is_told(network, frozen, rank, words):
    with pytest.raises(ValueError, match=words):
        freeze_or_adapt(network, frozen, rank)


def test_a_start_of_another_rank_or_without_updates_is_one_line(tmp_path):
    adapted = _network()
    freeze_or_adapt(adapted, False, 2)
    path = tmp_path / "run.ckpt"
    state = {f"encoder.{name}": weight for name, weight in adapted.state_dict().items()}
    torch.save({"state_dict": state, "seen_patients": []}, path)
    with pytest.raises(ValueError, match="norm and lora_rank that the encoder was pretrained with"):
        load_encoder(_network(), path)
    other = _network()
    freeze_or_adapt(other, False, 3)
    with pytest.raises(ValueError, match=r"'0\.parametrizations.*down' is \(2, 5\) in"):
        load_encoder(other, path)


@pytest.mark.slow
def test_a_vit_starts_at_its_own_outputs_and_learns_updates_and_head_alone():
    plain, model = _vit().eval(), _vit(lora_rank=4).eval()
    volume = torch.rand(2, 1, 6, 6, 6)
    assert torch.equal(model.slice_features(volume), plain.slice_features(volume))
    model._trainer = SimpleNamespace(
        max_epochs=1, estimated_stepping_batches=1, gradient_clip_val=None
    )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = model.configure_optimizers()["optimizer"]
    for _ in range(2):  # the first step leaves `down` as it is: `up` is 0
        model.loss(model(volume), torch.tensor([0, 1])).backward()
        optimizer.step()
    moved = {name for name, now in model.state_dict().items() if not torch.equal(now, before[name])}
    updates = {name for name in before if "parametrizations.weight.0." in name}
    assert moved == updates | {"head.1.weight", "head.1.bias"}


@pytest.mark.slow
def test_a_3d_vit_is_adapted_and_starts_from_a_plain_one(tmp_path):
    shape = (16, 16, 16)
    plain = Classifier(2, shape, backbone="vit")
    path = tmp_path / "plain.ckpt"
    torch.save({"state_dict": plain.state_dict(), "seen_patients": []}, path)
    model = Classifier(2, shape, backbone="vit", lora_rank=2, init_ckpt=str(path))
    model.load_start()
    volume = torch.rand(1, 1, *shape)
    assert torch.equal(model.eval().features(volume), plain.eval().features(volume))


@pytest.mark.slow
def test_an_adapted_model_predicts_the_same_as_its_onnx_graph(tmp_path):
    class Rows(LightningModule):
        def __init__(self):
            super().__init__()
            self.network = _network()
            freeze_or_adapt(self.network, False, 2)
            nn.init.normal_(self.network[0].parametrizations.weight[0].up)

        def forward(self, volume):
            return self.network(volume.flatten(1))

    fold = FoldModel(Rows(), mean=0.0, divisor=1.0)
    write_onnx(fold, (5, 1, 1), tmp_path / "fold.onnx")
    volume = torch.rand(3, 1, 5, 1, 1)
    assert onnx_difference(fold, tmp_path / "fold.onnx", volume) < 1e-6


@pytest.mark.slow
def test_positions_of_another_image_size_are_resampled_and_adapted_weights_loaded(tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model(TINY, img_size=64)
    path = tmp_path / "weights.safetensors"
    save_file(whole.state_dict(), path)
    model = _vit(weights=str(path), lora_rank=2)
    model.load_start()
    there = whole.pos_embed.detach()  # (1, 1 + 4 × 4, F); images of 32 × 32 have 2 × 2 patches
    expected = timm.layers.resample_abs_pos_embed(there, (2, 2), (4, 4))
    torch.testing.assert_close(model.encoder.pos_embed, expected)
    frozen = model.encoder.blocks[0].attn.qkv.parametrizations.weight.original
    assert torch.equal(frozen, whole.blocks[0].attn.qkv.weight)


@pytest.mark.slow
def test_a_model_described_elsewhere_is_built_from_its_description(tmp_path, monkeypatch):
    whole = timm.create_model(TINY, img_size=64)
    cfg = whole.pretrained_cfg | {"input_size": [3, 64, 64], "num_classes": 1000}
    plain = {name: value for name, value in cfg.items() if isinstance(value, str | int | list)}
    settings = {"architecture": TINY, "model_args": {"img_size": 64}, "pretrained_cfg": plain}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    model = _vit(backbone=f"local-dir:{tmp_path}", weights="imagenet")
    model.load_start()
    assert model.image_size == (32, 32)
    assert torch.equal(model.encoder.norm.weight, whole.norm.weight)
    monkeypatch.setattr(timm.models._hub, "load_model_config_from_hf", _unreachable)
    with pytest.raises(ValueError, match=r"'hf-hub:a/b' could not be obtained \(OSError\)"):
        _vit(backbone="hf-hub:a/b")


def _unreachable(name):
    raise OSError("no network")
