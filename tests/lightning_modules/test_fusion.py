"""Several contrasts and covariates in a classifier, and the starts that fit it."""

import logging

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from lightning_modules.classifier import Classifier
from lightning_modules.encoder import Encoder
from lightning_modules.fusion import mean_over_contrasts
from lightning_modules.imagenet_baseline import ImageNetBaseline
from lightning_modules.saliency import class_map
from lightning_modules.transfer import fill_encoder

SHAPE = (8, 8, 8)
NAN = float("nan")


def _volume(num_scans=3, channels=2, missing=()):
    volume = torch.randn(num_scans, channels, *SHAPE, generator=torch.Generator().manual_seed(0))
    for scan, channel in missing:
        volume[scan, channel] = NAN
    return volume


def _classifier(**settings):
    torch.manual_seed(0)
    settings = {"num_channels": 2, "filters": 8, "depth": 2, "nodes": 4, **settings}
    return Classifier(2, SHAPE, **settings)


@pytest.mark.parametrize("exported", [False, True])
def test_the_features_are_the_mean_over_the_contrasts_that_are_there(exported, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: exported)
    volume = _volume(missing=[(0, 1), (2, 0)])
    encode = Encoder(2, 8).eval()

    def features(volume):
        return encode(volume).flatten(1)

    found = mean_over_contrasts(features, volume)
    alone = [[features(volume[s, c][None, None])[0] for c in range(2)] for s in range(3)]
    expected = torch.stack([alone[0][0], (alone[1][0] + alone[1][1]) / 2, alone[2][1]])
    torch.testing.assert_close(found[:, :-2], expected)
    assert found[:, -2:].tolist() == [[1, 0], [1, 1], [0, 1]]


def test_a_norm_measures_only_the_contrasts_that_are_there():
    model = _classifier(fusion="encoders", norm="batch", contrast_dropout=0.0).train()
    volume = _volume(8, missing=[(scan, 1) for scan in range(8)])
    model(volume)
    other = _classifier(fusion="encoders", norm="batch", num_channels=1).train()
    other(volume[:, :1])
    for one, two in zip(model.encoder.buffers(), other.encoder.buffers(), strict=True):
        torch.testing.assert_close(one, two)


def test_dropout_takes_one_of_several_contrasts_and_never_the_last():
    def flags(volume, share):
        torch.manual_seed(0)
        found = mean_over_contrasts(lambda each: each.flatten(1), volume, share)
        return found[:, -2:]

    volume = _volume(400)
    assert flags(volume, 0.0).all()
    assert (flags(volume, 1.0).sum(1) == 1).all()
    dropped = flags(volume, 0.3).sum(1) == 1
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.07)
    assert flags(volume, 1.0).mean(0)[0] == pytest.approx(0.5, abs=0.08)
    volume[:, 0] = NAN
    assert flags(volume, 1.0).sum(1).tolist() == [1] * 400


def test_the_head_sees_covariates_next_to_the_images():
    model = _classifier(num_covariates=3).eval()
    volume, covariates = _volume(), torch.randn(3, 3)
    change = torch.tensor([[1.0, 0, 0]] * 3)
    moved = model(volume, covariates + change) - model(volume, covariates)
    weights = model.head[-1].weight[:, -3]
    torch.testing.assert_close(moved, weights.expand(3, 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_the_head_begins_with_what_scikit_learn_makes_of_the_covariates(num_classes):
    torch.manual_seed(0)
    model = Classifier(num_classes, SHAPE, filters=8, depth=2, nodes=4, num_covariates=2)
    covariates = torch.randn(40, 2)
    number = covariates[:, 0] - covariates[:, 1] + 0.3 * torch.randn(40)
    truth = number if num_classes == 1 else (number > 0).long()  # nobody of the third class
    before = model.head[-1].weight[2:].clone()
    model.start_from_covariates(covariates, truth)
    last = model.head[-1]
    if num_classes == 1:
        fitted = Ridge().fit(covariates.numpy(), truth.numpy())
        rows = fitted.coef_[None], [fitted.intercept_]
    else:
        fitted = LogisticRegression().fit(covariates.numpy(), truth.numpy())
        rows = np.stack([-fitted.coef_[0], fitted.coef_[0]]), [-1, 1] * fitted.intercept_
    np.testing.assert_allclose(last.weight.detach()[:2, -2:], rows[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(last.bias.detach()[:2], rows[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(last.weight[2:], before)


def test_without_covariates_and_contrasts_a_classifier_is_what_it_was():
    names = Classifier(2, SHAPE, filters=8, depth=2, nodes=4).state_dict()
    assert {name: tuple(names[name].shape) for name in names if name.startswith("head")} == {
        "head.2.weight": (4, 64),
        "head.2.bias": (4,),
        "head.5.weight": (2, 4),
        "head.5.bias": (2,),
    }
    assert names["encoder.0.0.weight"].shape == (8, 1, 3, 3, 3)


def test_an_encoder_of_one_channel_starts_one_of_several(caplog):
    one, three = Encoder(2, 8), Encoder(2, 8, channels=3)
    with caplog.at_level(logging.INFO, logger="lightning_modules.transfer"):
        fill_encoder(three, one.state_dict(), "a.ckpt")
    volume = _volume(channels=1)
    torch.testing.assert_close(three(volume.expand(-1, 3, -1, -1, -1)), one(volume))
    assert "repeated for 3 channels" in caplog.text


def test_the_2d_baseline_takes_the_slices_of_every_contrast():
    settings = {"backbone": "resnet10t", "weights": "none", "num_slices": 2, "image_size": 32}
    model = ImageNetBaseline(2, SHAPE, num_channels=2, num_covariates=1, **settings).eval()
    volume, covariates = _volume(), torch.zeros(3, 1)
    images = model.images(volume)
    assert images.shape == (3, 4, 3, 32, 32)
    alone = ImageNetBaseline(2, SHAPE, **settings).images(volume[:, 1:])
    torch.testing.assert_close(images[:, 2:], alone)
    assert model(volume, covariates).shape == (3, 2)


@pytest.mark.parametrize("kind", ["gradcam", "occlusion", "integrated_gradients", "shap"])
@pytest.mark.parametrize("fusion", ["channels", "encoders"])
def test_a_map_is_drawn_for_all_contrasts_at_once(kind, fusion):
    missing = [(0, 1)] if fusion == "encoders" else []
    volume = _volume(1, missing=missing)
    model = _classifier(fusion=fusion, num_covariates=1, norm="none")
    heat = class_map(model, volume, 1, kind, torch.zeros(1, 1))
    assert heat.shape == SHAPE
    assert np.isfinite(heat).all()
