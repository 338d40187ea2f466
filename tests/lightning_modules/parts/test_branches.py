import pytest
import timm
import torch
from lightning import LightningModule
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from lightning_modules.backbones import build_backbone, load_weights
from lightning_modules.backbones_2d import build_backbone_2d, load_weights_2d
from lightning_modules.classifier import Classifier
from lightning_modules.deployment import FoldModel, onnx_difference, write_onnx
from lightning_modules.encoder import Encoder
from lightning_modules.finetuning import Finetuning, configure_finetuning
from lightning_modules.parts.branches import Branches, has_branches, one_for_each
from lightning_modules.transfer import load_encoder

TINY, VIT = "mobilenetv3_small_050", "test_vit3"


def _two(fuse="concat", scales=None):
    torch.manual_seed(0)
    return Branches([nn.Linear(3, 4), nn.Linear(3, 2)], [4, 2], fuse, scales)


def test_features_stand_next_to_each_other_or_are_projected_and_added():
    rows = torch.rand(5, 3)
    both = _two()
    one, other = (network(rows) for network in both.networks)
    assert both.num_features == 6
    assert torch.equal(both(rows), torch.cat([one, other], 1))
    added = _two("add")
    weights = [(each.weight, each.bias) for each in added.projections]
    expected = F.linear(one, *weights[0]) + F.linear(other, *weights[1])
    assert added.num_features == 2
    torch.testing.assert_close(added(rows), expected)


def test_each_network_sees_the_input_on_its_own_scale():
    scales = torch.tensor([[[1.0] * 3, [2.0] * 3], [[0.0] * 3, [-1.0] * 3]])  # (2, N, C)
    rows, both = torch.rand(5, 3), _two(scales=scales)
    expected = torch.cat([both.networks[0](rows), both.networks[1](rows * 2 - 1)], 1)
    torch.testing.assert_close(both(rows), expected)


def test_two_kernel_sizes_are_two_of_the_papers_encoders_next_to_each_other():
    torch.manual_seed(0)
    model = Classifier(2, (8, 8, 8), filters=8, depth=2, kernel_size=[3, 5], norm="none").eval()
    volume = torch.rand(2, 1, 8, 8, 8)
    maps = []
    for path, size in zip(model.encoder.networks, (3, 5), strict=True):
        found = volume
        for block in path:
            weight, bias = block[0].weight, block[0].bias
            assert weight.shape[2:] == (size,) * 3
            found = F.max_pool3d(F.conv3d(found, weight, bias, padding=size // 2), 2).relu()
        maps.append(found)
    torch.testing.assert_close(model.encoder(volume), torch.cat(maps, 1))
    assert model(volume).shape == (2, 2)
    assert not model.has_class_maps
    added = Classifier(2, (8, 8, 8), filters=8, kernel_size=[3, 5], fuse="add")
    assert added.encoder(volume).shape == (2, 8, 1, 1, 1)


def test_one_kernel_size_of_three_is_the_papers_network_drawn_as_ever():
    torch.manual_seed(0)
    found = Classifier(2, (8, 8, 8), filters=8, depth=1, nodes=4, norm="none").state_dict()
    torch.manual_seed(0)
    by_hand = [nn.Conv3d(1, 8, 3, padding=1), nn.Linear(8 * 64, 4), nn.Linear(4, 2)]
    drawn = [weight for layer in by_hand for weight in layer.state_dict().values()]
    for weight, expected in zip(found.values(), drawn, strict=True):
        assert torch.equal(weight, expected)


def test_kernel_sizes_and_starts_that_cannot_be_are_one_line(tmp_path):
    for size, words in ((4, "kernel_size is 4; set it to 3, 5"), ([], "an empty list")):
        with pytest.raises(ValueError, match=words):
            Classifier(2, (8, 8, 8), kernel_size=size)
    path = tmp_path / "pretrained.ckpt"
    state = {f"encoder.{name}": weight for name, weight in Encoder(3, 16).state_dict().items()}
    torch.save({"state_dict": state, "seen_patients": []}, path)
    for size, words in ((5, "filters and kernel_size"), ([3, 5], "backbone and kernel_size that")):
        model = Classifier(2, (8, 8, 8), kernel_size=size, norm="none")
        with pytest.raises(ValueError, match=words):
            load_encoder(model.encoder, path)


def test_branches_have_no_order_of_layers():
    both, head = _two(), nn.Linear(6, 2)
    assert has_branches(nn.Sequential(both))
    settings = {"lr": 0.1, "encoder_lr_factor": 1.0, "weight_decay": 0.0}
    settings |= {"max_epochs": 4, "num_steps": 4}
    for strategy in (Finetuning(unfreeze_every=1), Finetuning(layer_decay=0.5)):
        with pytest.raises(ValueError, match="no order of layers"):
            configure_finetuning(head.parameters(), both, strategy, **settings)
    configure_finetuning(head.parameters(), both, Finetuning(head_epochs=1), **settings)


def test_weights_are_one_word_for_all_or_one_for_each():
    assert one_for_each(["a", "b"], "imagenet") == ["imagenet"] * 2
    assert one_for_each(["a", "b"], ["x.pth", "none"]) == ["x.pth", "none"]
    with pytest.raises(ValueError, match=r"1 weights are given \(x\.pth\) for 2 networks \(a, b\)"):
        one_for_each(["a", "b"], "x.pth")


@pytest.mark.slow
def test_two_networks_of_timm_each_see_what_their_weights_saw(tmp_path):
    both, config = build_backbone_2d(f"{TINY}+{VIT}", 32)
    image = torch.rand(2, 3, 32, 32)
    torch.manual_seed(0)
    files, found = [], []
    for name in (TINY, VIT):
        size = {"img_size": 32} if name == VIT else {}
        alone = timm.create_model(name, num_classes=0, **size).eval()
        files.append(str(tmp_path / f"{name}.safetensors"))
        save_file(alone.state_dict(), files[-1])
        own = timm.data.resolve_model_data_config(alone)
        mean, std = (torch.tensor(own[key])[:, None, None] for key in ("mean", "std"))
        found.append(alone((image - mean) / std))
    load_weights_2d(both, f"{TINY}+{VIT}", files, 32)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(both.eval()((image - mean) / std), torch.cat(found, 1))


@pytest.mark.slow
def test_two_networks_of_monai_are_one_encoder(tmp_path):
    torch.manual_seed(0)
    source, target = (build_backbone("resnet10+vit", (16, 16, 16)).eval() for _ in range(2))
    paths = [str(tmp_path / f"{number}.pth") for number in range(2)]
    for network, path in zip(source.network.networks, paths, strict=True):
        torch.save(network.state_dict(), path)
    load_weights(target, paths)
    volume = torch.rand(1, 1, 16, 16, 16)
    expected = [source.network.networks[0](volume), source.network.networks[1](volume)[0]]
    torch.testing.assert_close(target(volume), torch.cat(expected, 1))


@pytest.mark.slow
def test_fused_branches_predict_the_same_as_their_onnx_graph(tmp_path):
    class Rows(LightningModule):
        def __init__(self):
            super().__init__()
            self.network = _two("add", torch.rand(2, 2, 3))

        def forward(self, volume):
            return self.network(volume.flatten(1))

    fold = FoldModel(Rows(), mean=0.0, divisor=1.0)
    write_onnx(fold, (3, 1, 1), tmp_path / "fold.onnx")
    assert onnx_difference(fold, tmp_path / "fold.onnx", torch.rand(3, 1, 3, 1, 1)) < 1e-6
