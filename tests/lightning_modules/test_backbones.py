import logging
import subprocess
import sys
from typing import ClassVar

import pytest
import torch
from lightning import LightningDataModule, Trainer
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from evaluation.predictions import read_predictions
from lightning_modules.backbones import build_backbone, load_weights
from lightning_modules.classifier import Classifier
from lightning_modules.transfer import load_encoder

pytestmark = pytest.mark.slow  # networks of other people are large

# the smallest volumes that each can bear, and the features it makes of them
BACKBONES = {
    "resnet18": (16, 512),
    "densenet121": (32, 1024),
    "efficientnet-b0": (32, 1280),
    "vit": (16, 768),
}
LARGE = ("densenet121", "vit")
each_backbone = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in BACKBONES]
)


def _classifier(name="resnet18", **settings):
    shape = (BACKBONES[name][0],) * 3
    return Classifier(**{"num_classes": 3, "spatial_shape": shape, "backbone": name, **settings})


class Scans(LightningDataModule):
    """Two batches, the last of them of a single scan."""

    training_patients: ClassVar = {"p1"}
    held_out_patients: ClassVar = set()

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        volumes = torch.rand(3, 1, 16, 16, 16, generator=generator)
        scans = [{"volume": volume, "label": row % 2} for row, volume in enumerate(volumes)]
        return DataLoader(scans, batch_size=2)

    val_dataloader = train_dataloader


def _fit(model, tmp_path):
    """Train for an epoch and return the weights of before."""
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, Scans())
    return before


@each_backbone
def test_a_backbone_is_the_encoder_of_the_same_classifier(name):
    size, num_features = BACKBONES[name]
    model = _classifier(name).eval()
    volume = torch.rand(2, 1, size, size, size)
    assert model.encoder(volume).shape == (2, num_features)
    assert model(volume).shape == (2, 3)


@each_backbone
def test_every_weight_of_a_backbone_learns(name):
    size, _ = BACKBONES[name]
    model = _classifier(name)
    torch.manual_seed(0)
    model.loss(model(torch.rand(2, 1, size, size, size)), torch.tensor([0, 2])).backward()
    assert [path for path, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.slow
@each_backbone
def test_a_classifier_hands_its_backbone_to_another(name, tmp_path):
    source, target = _classifier(name), _classifier(name, num_classes=2)
    path = tmp_path / "source.ckpt"
    torch.save({"state_dict": source.state_dict(), "seen_patients": ["p1"]}, path)
    load_encoder(target.encoder, path)
    expected = source.encoder.state_dict()
    for weight_name, weight in target.encoder.state_dict().items():
        assert torch.equal(weight, expected[weight_name])


@pytest.mark.slow
@each_backbone
def test_weights_of_other_people_are_loaded_but_for_the_last_layer(name, tmp_path, caplog):
    size, _ = BACKBONES[name]
    source, target = (build_backbone(name, (size,) * 3) for _ in range(2))
    weights = {f"module.{name}": weight for name, weight in source.network.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": weights | {"module.fc.weight": torch.zeros(2, 2)}}, path)
    with caplog.at_level(logging.INFO, "lightning_modules.backbones"):
        load_weights(target, path)
    assert f"Loaded {len(weights)} encoder weights from {path}" in caplog.text
    assert "not used: fc.weight" in caplog.text
    expected = source.state_dict()
    for weight_name, weight in target.state_dict().items():
        assert torch.equal(weight, expected[weight_name])


def test_weights_may_lie_in_a_safetensors_file(tmp_path):
    source, target = (build_backbone("resnet10", (16, 16, 16)) for _ in range(2))
    save_file(source.network.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    assert torch.equal(target.network.conv1.weight, source.network.conv1.weight)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "weights.pth do not exist"),
        ([1, 2], "weights.pth cannot be read"),
        ({"other.weight": torch.zeros(2)}, "weights.pth has no encoder in common"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7, 7)},
            r"'conv1\.weight' is \(64, 3, 7, 7, 7\) in",
        ),
        ({"conv1.weight": torch.zeros(64, 1, 7, 7, 7)}, r"weights.pth has no encoder weight 'bn1"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, content, words):
    path = tmp_path / "weights.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=words) as error:
        load_weights(build_backbone("resnet10", (16, 16, 16)), path)
    assert "\n" not in str(error.value)


def test_training_starts_from_the_weights_file(tmp_path):
    path = tmp_path / "weights.pth"
    source = build_backbone("resnet10", (16, 16, 16))
    torch.save(source.network.state_dict(), path)
    model = Classifier(
        2, (16, 16, 16), backbone="resnet10", weights_path=str(path), freeze_encoder=True
    )
    _fit(model, tmp_path)
    expected = source.state_dict()
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, expected[name])  # running statistics as well


def test_a_last_batch_of_one_scan_trains_where_a_map_has_one_voxel(tmp_path):
    model = Classifier(2, (16, 16, 16), backbone="resnet10")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.encoder.network(torch.rand(1, 1, 16, 16, 16))
    before = _fit(model, tmp_path)
    after = model.state_dict()
    assert after["encoder.network.bn1.num_batches_tracked"] == 2  # once above, once in training
    assert all(
        weight.isfinite().all() and not torch.equal(weight, before[name])
        for name, weight in after.items()
        if name.endswith("conv1.weight")
    )


def test_other_networks_of_monai_need_no_code():
    with torch.device("meta"):
        backbone = build_backbone("SEResNet50", (32, 32, 32))
    assert backbone.num_features == 2048


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("resnet19", (16, 16, 16), "'resnet19' is neither mctl nor a network of MONAI"),
        ("basicunet", (16, 16, 16), "'basicunet' is not made from spatial_dims, in_channels"),
        ("densenet121", (24, 48, 16), r"shrinks volumes of \(24, 48, 16\) voxels to nothing"),
        ("vit", (16, 37, 16), "cannot cut an axis of 37 voxels"),
    ],
)
def test_a_backbone_that_cannot_be_is_explained(name, shape, words):
    with pytest.raises(ValueError, match=words) as error:
        build_backbone(name, shape)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{}, {"backbone": "resnet10", "init_ckpt": "other/best.ckpt"}])
def test_a_weights_file_is_the_only_start_and_of_a_named_backbone(settings):
    with pytest.raises(ValueError, match="name the backbone, and give either"):
        Classifier(2, (16, 16, 16), weights_path="weights.pth", **settings)


@pytest.mark.slow
def test_monai_is_imported_only_for_its_own_networks():
    code = (
        "import sys; from lightning_modules.classifier import Classifier; "
        "Classifier(2, (8, 8, 8)); assert 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_backbone_is_cross_validated_through_the_command_line(write_cohort, run_verb, tmp_path):
    settings = ["--model.backbone=resnet10", "--model.freeze_encoder=true", "--data.batch_size=5"]
    assert run_verb("finetune", write_cohort(12), "fine", *settings, epochs=1) == 0
    assert len(read_predictions(tmp_path / "fine/predictions.csv")) == 12
    checkpoint = torch.load(tmp_path / "fine/repeat0_fold0/best.ckpt", weights_only=True)
    assert "encoder.network.layer4.0.conv1.weight" in checkpoint["state_dict"]


@pytest.mark.parametrize("prefix", ["module.", "encoder.", "backbone.", "model.network."])
def test_a_prefix_of_all_names_is_taken_off_and_another_one_is_told(prefix, tmp_path):
    torch.manual_seed(0)
    source, target = (build_backbone("resnet10", (16, 16, 16)) for _ in range(2))
    weights = {prefix + name: weight for name, weight in source.network.state_dict().items()}
    weights |= {"projector.0.weight": torch.zeros(2, 2)}
    path = tmp_path / "weights.tar"
    torch.save({"epoch": 3, "model_state_dict": weights}, path)
    load_weights(target, path)
    expected = source.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in target.state_dict().items())
    torch.save({f"other.{name}": weight for name, weight in weights.items()}, path)
    with pytest.raises(ValueError, match="has no encoder in common with the model"):
        load_weights(target, path)
    del weights[f"{prefix}layer1.0.conv1.weight"]
    torch.save({"state_dict": weights}, path)
    with pytest.raises(ValueError, match=r"has no encoder weight '.*layer1\.0\.conv1\.weight'"):
        load_weights(target, path)


def test_the_forms_of_published_encoders_are_built():
    for name, shape in (("resnet18-b", (16, 16, 16)), ("vit-tokens", (16, 16, 16))):
        with torch.device("meta"):
            weights = build_backbone(name, shape).network.state_dict()
        if name == "resnet18-b":  # of 3D-Neuro-SimCLR
            assert {"layer2.0.downsample.0.bias", "layer4.1.bn2.weight"} <= weights.keys()
        else:  # of BrainIAC
            assert "cls_token" not in weights
            assert weights["patch_embedding.position_embeddings"].shape == (1, 1, 768)


def test_a_vit_without_class_token_is_read_at_its_first_patch():
    torch.manual_seed(0)
    backbone = build_backbone("vit-tokens", (16, 16, 32)).eval()
    volume = torch.rand(1, 1, 16, 16, 32)
    network = backbone.network
    tokens = network.patch_embedding(volume)
    for block in network.blocks:
        tokens = block(tokens)
    assert torch.allclose(backbone(volume), network.norm(tokens)[:, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0", "vit"])
def test_a_picture_gets_the_2d_sibling_of_a_network(name):
    model = Classifier(num_classes=2, spatial_shape=(32, 48, 1), backbone=name).eval()
    kernels = [layer for layer in model.encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert kernels
    assert model(torch.rand(2, 1, 32, 48, 1)).shape == (2, 2)
    assert not model.has_class_maps
