from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F
from torchmetrics.classification import MulticlassF1Score

from lightning_modules.classifier import Classifier
from lightning_modules.encoder import Encoder
from lightning_modules.pretraining.autoencoder import Autoencoder

TRAINER = SimpleNamespace(max_epochs=1, estimated_stepping_batches=1, gradient_clip_val=None)


def _classifier(**settings):
    return Classifier(**{"num_classes": 2, "spatial_shape": (9, 10, 5), "filters": 4, **settings})


def _optimizer(model):
    model._trainer = TRAINER
    return model.configure_optimizers()["optimizer"]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_the_encoder_halves_and_never_vanishes(depth, pool):
    latent = Encoder(depth, 4, pool)(torch.rand(2, 1, 25, 25, 4))
    sizes = [25, 25, 4]
    for _ in range(depth):
        sizes = [-(-size // pool) for size in sizes]
    assert latent.shape == (2, 4, *sizes)


@pytest.mark.parametrize("pool", [1, 2])
def test_the_memory_format_does_not_change_what_is_learnt(pool):
    volume, target = torch.rand(4, 1, 9, 10, 5), torch.eye(2).repeat(2, 1)
    losses = []
    for memory_format in (torch.channels_last_3d, torch.contiguous_format):
        torch.manual_seed(0)
        model = _classifier(pool=pool).to(memory_format=memory_format)
        assert model.encoder[1][0].weight.is_contiguous(memory_format=memory_format)
        optimizer = _optimizer(model)
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(volume), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert (
        _classifier(pool=pool)
        .encoder[1][0]
        .weight.is_contiguous(memory_format=torch.channels_last_3d)
    )
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("pool", [1, 2])
def test_pooling_first_gives_the_values_and_gradients_of_relu_first(pool):
    torch.manual_seed(0)
    encoder = Encoder(2, 4, pool)
    volume = torch.randn(3, 1, 9, 10, 5)
    found = torch.autograd.grad(encoder(volume).square().sum(), [*encoder.parameters()])
    latent = volume
    for block in encoder:
        latent = F.max_pool3d(F.relu(block[0](latent)), pool, ceil_mode=True)
    assert torch.equal(encoder(volume), latent)
    expected = torch.autograd.grad(latent.square().sum(), [*encoder.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
@pytest.mark.parametrize("shape", [(25, 25, 4), (16, 9, 7)])
def test_the_autoencoder_gives_back_the_shape_it_was_given(norm, shape):
    model = Autoencoder(filters=4, norm=norm)
    assert model(torch.rand(2, 1, *shape)).shape == (2, 1, *shape)


@pytest.mark.slow
def test_the_autoencoder_learns_to_copy_a_patch():
    torch.manual_seed(0)
    model = Autoencoder(depth=2, filters=8, lr=1e-2, norm="none")
    patch = F.avg_pool3d(torch.rand(4, 1, 10, 10, 6), 3, stride=1, padding=1)
    model._trainer = TRAINER
    optimizer = model.configure_optimizers()
    losses = []
    for _ in range(150):
        loss = F.mse_loss(model(patch), patch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * patch.var().item() < losses[0]


def test_denoising_adds_noise_to_the_input_alone(monkeypatch):
    model = Autoencoder(depth=1, filters=2, noise_std=0.5)
    seen = []
    monkeypatch.setattr(model, "forward", lambda volume: seen.append(volume) or volume)
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    clean = torch.zeros(64, 1, 8, 8, 4)
    loss = model.training_step({"volume": clean}, 0)
    assert seen[0].std().item() == pytest.approx(0.5, rel=0.05)
    assert loss.item() == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("pool", [1, 2])
def test_the_classifier_fits_its_volumes(depth, pool):
    model = _classifier(depth=depth, pool=pool, num_classes=3)
    assert model(torch.rand(2, 1, 9, 10, 5)).shape == (2, 3)


def test_the_paper_taken_literally_has_the_papers_many_weights():
    with torch.device("meta"):
        model = Classifier(2, (64, 64, 64), depth=1, filters=16, nodes=64, pool=1)
    assert model.head[2].weight.numel() == 16 * 64**3 * 64


def test_the_loss_is_binary_cross_entropy_over_the_output_nodes():
    logits, label = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    prob = logits.sigmoid()
    expected = 0.0
    for row, true in zip(prob, label.tolist(), strict=True):
        for node, p in enumerate(row):
            expected -= torch.log(p if node == true else 1 - p) / 15
    torch.testing.assert_close(_classifier(num_classes=3).loss(logits, label), expected)


def test_a_frozen_encoder_stays_and_the_head_moves():
    model = _classifier(freeze_encoder=True, lr=0.1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = _optimizer(model)
    model.loss(model(torch.rand(3, 1, 9, 10, 5)), torch.tensor([0, 1, 0])).backward()
    optimizer.step()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("encoder.")


def test_the_encoder_can_learn_more_slowly():
    model = _classifier(lr=0.01, encoder_lr_factor=0.1)
    head, *layers = _optimizer(model).param_groups
    assert head["lr"] == 0.01
    assert [layer["lr"] for layer in layers] == [pytest.approx(0.001)] * 3
    num_params = sum(len(layer["params"]) for layer in layers)
    assert num_params == len(list(model.encoder.parameters()))


def test_a_classifier_without_its_shape_is_refused():
    with pytest.raises(ValueError, match="num_classes and spatial_shape"):
        Classifier()


@pytest.mark.parametrize("shape", [(2, 1, 9, 10, 6), (2, 2, 9, 10, 5)])
def test_a_volume_of_another_shape_is_named(shape):
    model = _classifier(readout="mean")
    channels = f"{shape[1:]}".strip("()")
    with pytest.raises(
        ValueError, match=rf"shape \(2, {channels}\), .* built for \(B, 1, 9, 10, 5\)"
    ):
        Classifier.check_shape(model, torch.rand(shape))


def test_a_forward_pass_checks_the_shape():
    with pytest.raises(ValueError, match="the model was built for"):
        _classifier(readout="mean")(torch.rand(2, 1, 9, 10, 6))


def test_more_metrics_are_logged_by_their_names(monkeypatch):
    f1 = MulticlassF1Score(num_classes=2)
    model = _classifier(metrics={"f1": f1}).eval()
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value: logged.update({name: value}))
    batch = {"volume": torch.rand(4, 1, 9, 10, 5), "label": torch.tensor([0, 1, 1, 0])}
    model.validation_step(batch, 0)
    assert list(logged) == ["val/loss", "val/accuracy", "val/balanced_accuracy", "val/f1"]
    expected = f1_score(batch["label"], model(batch["volume"]).argmax(1), average="macro")
    assert logged["val/f1"].compute().item() == pytest.approx(expected)
    assert "metrics" not in model.hparams


THICK_AND_THIN = [(9, 9, 4), (9, 5, 9), (2, 3, 1), (4, 4, 4), (1, 1, 6), (12, 12, 8)]


@pytest.mark.parametrize("shape", THICK_AND_THIN, ids=str)
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_weights_that_get_no_gradient_are_told(depth, pool, shape):
    reached = [torch.zeros(3, 3, 3, dtype=torch.bool) for _ in range(depth)]
    for seed in range(8):  # what one encoder's maxima never choose, another's do
        torch.manual_seed(seed)
        encoder = Encoder(depth, 4, pool)
        encoder(torch.randn(16, 1, *shape)).square().sum().backward()
        for taps, block in zip(reached, encoder, strict=True):
            taps |= (block[0].weight.grad != 0).any(0).any(0)
    dead = [1 - taps.float().mean().item() for taps in reached]
    said = Encoder(depth, 4, pool).untrained_weights(shape)
    assert bool(said) == any(dead)
    if said:
        first = next(number for number, share in enumerate(dead) if share)
        assert f"convolution {first + 1} sees 1 voxel" in said
        assert f"{dead[first]:.0%} of its weights" in said


def test_an_encoder_of_pictures_is_a_2d_network():
    encoder = Encoder(2, 8, 2, norm="batch", channels=2, spatial_shape=(11, 9, 1))
    picture = torch.randn(3, 2, 11, 9, 1)
    expected = picture[..., 0]
    for convolution, _, norm, _ in encoder:
        assert convolution.weight.shape[2:] == (3, 3, 1)
        weight = convolution.weight[..., 0].contiguous()  # else torch's gradients are wrong
        flat = F.conv2d(expected, weight, convolution.bias, padding=1)
        pooled = F.max_pool2d(flat, 2, ceil_mode=True)
        expected = norm(pooled[..., None])[..., 0].relu()
    found = encoder(picture)  # by the loop in C where there is one
    torch.testing.assert_close(found[..., 0], expected, atol=1e-5, rtol=1e-4)
    weights = [block[0].weight for block in encoder]
    ours = torch.autograd.grad(found.square().sum(), weights)
    theirs = torch.autograd.grad(expected.square().sum(), weights)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert all(grad.any((0, 1)).all() for grad in ours)
    assert encoder.untrained_weights((11, 9, 1)) == ""
    assert encoder.output_shape((11, 9, 1)) == tuple(found.shape[2:]) == (3, 3, 1)
    torch.manual_seed(0)
    plain = Encoder(2, 8).state_dict()
    torch.manual_seed(0)
    told = Encoder(2, 8, spatial_shape=(9, 9, 9)).state_dict()
    assert all(map(torch.equal, plain.values(), told.values()))


def test_the_least_thickness_that_trains_every_weight_is_named():
    encoder = Encoder(3, 4, 2)
    assert "Take at least 5 voxels along each axis" in encoder.untrained_weights((25, 25, 4))
    assert encoder.untrained_weights((25, 25, 5)) == ""
    assert "at least 9 voxels" in Encoder(4, 4, 2).untrained_weights((25, 25, 8))
    assert Encoder(4, 4, 2).untrained_weights((9, 9, 9)) == ""
