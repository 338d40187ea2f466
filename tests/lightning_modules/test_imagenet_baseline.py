import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

import main
from evaluation.predictions import read_predictions
from lightning_modules.backbones_2d import load_weights_2d
from lightning_modules.finetuning import set_modes
from lightning_modules.imagenet_baseline import ImageNetBaseline, choose_slices

pytestmark = pytest.mark.slow  # networks of other people are large

TINY = "mobilenetv3_small_050"
FAST_BACKBONES = ["resnet18", "efficientnet_b0", "mobilenetv3_small_100", "vit_tiny_patch16_224"]
SLOW_BACKBONES = [
    "vgg16",
    "densenet121",
    "inception_v3",
    "legacy_xception",
    "tf_efficientnetv2_b0",
    "convnext_atto",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
]
BACKBONES = [
    *FAST_BACKBONES,
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_BACKBONES),
]


def _baseline(**settings):
    given = {"num_slices": 2, "weights": "none", "backbone": TINY, "image_size": 64} | settings
    return ImageNetBaseline(2, given.pop("spatial_shape", (10, 12, 8)), **given)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_family_of_backbones_gives_one_logit_per_class_and_learns(backbone):
    model = _baseline(backbone=backbone, image_size=96)
    logits = model(torch.rand(2, 1, 10, 12, 8))
    assert logits.shape == (2, 2)
    model.loss(logits, torch.tensor([0, 1])).backward()
    first = next(model.encoder.parameters())
    assert first.grad.abs().sum() > 0


def test_slices_are_every_mth_and_leave_the_ends_out():
    assert choose_slices(16, 8, 0, 0) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert choose_slices(20, 4, 2, 3) == [2, 5, 8, 11]
    assert choose_slices(7, 7, 0, 0) == list(range(7))
    for given in ((8, 9, 0, 0), (8, 4, 3, 2), (8, 0, 0, 0), (8, 2, -1, 0)):
        with pytest.raises(ValueError, match="Lower one of them"):
            choose_slices(*given)


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 2), ("coronal", 3), ("axial", 4)])
def test_images_are_the_chosen_slices_in_the_range_that_the_weights_saw(plane, axis):
    model = _baseline(plane=plane, num_slices=3)
    volume = torch.randn(2, 1, 10, 12, 8) * 7 - 3
    image = model.images(volume)
    assert image.shape == (2, 3, 3, 64, 64)
    grey = image * model.std + model.mean
    torch.testing.assert_close(grey[:, :, 0], grey[:, :, 2])
    assert grey.min() >= 0
    assert grey.max() <= 1
    low, high = volume[1].min(), volume[1].max()
    plain = ((volume[1, 0] - low) / (high - low)).select(axis - 2, model.slices[plane][1])
    expected = torch.nn.functional.interpolate(plain[None, None], (64, 64), mode="bilinear")
    torch.testing.assert_close(grey[1, 1, 0], expected[0, 0], atol=1e-5, rtol=0)


def test_a_picture_is_one_slice():
    model = _baseline(spatial_shape=(20, 16, 1), num_slices=8)
    assert model.slices == {"axial": [0]}
    with pytest.raises(ValueError, match="plane is coronal, but pictures are their axial slice"):
        _baseline(spatial_shape=(20, 16, 1), plane="coronal")


def test_image_size_and_normalisation_come_from_the_backbone():
    model = _baseline(backbone="inception_v3", image_size=None)
    assert model.image_size == (299, 299)
    config = timm.get_pretrained_cfg("inception_v3")
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(config.mean))


def test_mean_averages_outputs_vote_counts_slices_and_attention_weighs_features():
    volume = torch.rand(3, 1, 10, 12, 8)
    mean = _baseline(num_slices=4).eval()
    outputs = mean.slice_logits(volume).sigmoid()  # (B, S, K)
    torch.testing.assert_close(mean(volume).sigmoid(), outputs.mean(1))

    vote = _baseline(num_slices=4, aggregation="vote").eval()
    winners = vote.slice_logits(volume).argmax(2)
    share = torch.stack([(winners == k).float().mean(1) for k in range(2)], dim=1)
    torch.testing.assert_close(vote(volume).sigmoid(), share, atol=1e-4, rtol=0)

    attention = _baseline(num_slices=4, aggregation="attention").eval()
    features = attention.slice_features(volume)
    weight = attention.attention.shares(features)
    torch.testing.assert_close(weight.sum(1), torch.ones(3, 1))
    torch.testing.assert_close(attention(volume), attention.head((weight * features).sum(1)))
    attention(volume).sum().backward()
    assert attention.attention[0].weight.grad.abs().sum() > 0


def test_slices_of_all_planes_stand_plane_after_plane():
    volume = torch.rand(2, 1, 10, 12, 8)
    found = _baseline(plane="all").images(volume)
    each = [_baseline(plane=plane).images(volume) for plane in ("sagittal", "coronal", "axial")]
    torch.testing.assert_close(found, torch.cat(each, 1))


@pytest.mark.parametrize("aggregation", ["lstm", "gru", "transformer"])
def test_heads_that_read_in_order_have_one_output_per_plane(aggregation):
    model = _baseline(plane="all", aggregation=aggregation, image_size=32)
    volume = torch.rand(3, 1, 10, 12, 8)
    logits = model.eval().slice_logits(volume)
    assert logits.shape == (3, 3, 2)
    torch.testing.assert_close(model(volume).sigmoid(), logits.sigmoid().mean(1))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_local_file_are_loaded_whole(tmp_path, suffix):
    whole = timm.create_model(TINY, pretrained=False)  # with the layer of 1,000 classes
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(whole.state_dict(), path)
    model = _baseline(weights=str(path))
    model.load_start()
    for name, weight in model.encoder.state_dict().items():
        torch.testing.assert_close(weight, whole.state_dict()[name])


def test_weights_that_are_missing_corrupt_or_of_another_backbone_are_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("mobilenetv3_small_075", pretrained=False).state_dict(), other)
    corrupt = tmp_path / "corrupt.pth"
    corrupt.write_bytes(b"PK\x03\x04 no weights")
    for weights, words in (
        (other, "Give weights of this very backbone"),
        (corrupt, "corrupt or not safe"),
        (tmp_path / "absent.pth", "There is no weights file"),
    ):
        with pytest.raises(ValueError, match=words):
            _baseline(weights=str(weights)).load_start()


def test_without_a_network_the_error_says_how_to_obtain_weights(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    encoder = _baseline().encoder
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ValueError, match=r"timm/mobilenetv3_small_050.*model.weights=FILE"):
        load_weights_2d(encoder, TINY, "imagenet")


def test_a_backbone_without_weights_or_without_existence_is_refused():
    untrained = next(n for n in timm.list_models("resnet*") if not timm.is_model_pretrained(n))
    with pytest.raises(ValueError, match="timm has no ImageNet weights"):
        load_weights_2d(torch.nn.Identity(), untrained, "imagenet")
    with pytest.raises(ValueError, match="no backbone 'resnet1'; similar ones: "):
        _baseline(backbone="resnet1")


def test_a_frozen_backbone_keeps_weights_and_running_means():
    model = _baseline(freeze_encoder=True)
    before = {name: weight.clone() for name, weight in model.encoder.state_dict().items()}
    model._trainer = SimpleNamespace(
        max_epochs=1, estimated_stepping_batches=1, gradient_clip_val=None
    )
    optimizer = model.configure_optimizers()["optimizer"]
    set_modes(model.encoder, optimizer)
    model.loss(model(torch.rand(4, 1, 10, 12, 8)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    for name, weight in model.encoder.state_dict().items():
        torch.testing.assert_close(weight, before[name])


@pytest.mark.slow
def test_the_baseline_runs_on_the_folds_of_the_3d_network(write_cohort, tmp_path):
    shared = tmp_path / "shared.yaml"  # a user's file that also has settings of the 3D network
    shared.write_text("model: {filters: 4, dropout: 0.1}\ndata: {batch_size: 4}\n")
    arguments = [
        "finetune",
        "-cconfigs/finetune.yaml",
        f"-c{shared}",
        f"--data.table={write_cohort(12)}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        "--data.splits.num_repeats=1",
        "--data.splits.num_folds=3",
        "--data.augmentation.num_versions=2",
        "--trainer.accelerator=cpu",
    ]
    baseline = ["-cconfigs/baseline.yaml", f"--model.backbone={TINY}", "--model.weights=none"]
    small = ["--model.image_size=64", "--trainer.max_epochs=1"]
    for run, settings in (("2d", [*baseline, *small]), ("3d", ["--trainer.max_epochs=1"])):
        assert main.main([*arguments, f"--run={tmp_path / run}", *settings]) == 0
    runs = f"{tmp_path / '3d'} {tmp_path / '2d'}"
    assert main.main(["compare", f"--runs={runs}", f"--run={tmp_path / 'cmp'}"]) == 0
    assert len(read_predictions(tmp_path / "2d/predictions.csv")) == 12
    config = (tmp_path / "2d/config.yaml").read_text()
    assert re.search(r"dropout: 0\.1", config)
    assert "filters" not in config
    assert json.loads((tmp_path / "2d/metrics.json").read_text())["num_patients"] == 12


def test_the_makefile_puts_the_baseline_last_so_that_any_config_serves_both():
    makefile = Path("Makefile").read_text()
    (line,) = re.findall(r"\nbaseline:.*\n\t(.*)", makefile)
    assert line.index("$(common)") < line.index("configs/baseline.yaml") < line.index("$(ARGS)")
    assert "main.py finetune" in line
