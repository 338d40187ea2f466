import numpy as np
import pytest
import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnRidge
from lightning import LightningModule
from monai.visualize import GradCAMpp
from scipy.stats import spearmanr
from torch import nn

from lightning_modules.attributions import supervoxels
from lightning_modules.classifier import Classifier
from lightning_modules.saliency import class_map, likeness, likeness_words, randomised

SHAPE = (8, 8, 8)


class Linear(LightningModule):
    """Adds up the voxels with weights."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(512, 2)

    def forward(self, volume):
        return self.layer(volume.flatten(1))


def _scaled(heat):
    positive = np.clip(heat, 0, None)
    return positive / positive.max()


@pytest.fixture
def volume():
    return torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Classifier(2, SHAPE, depth=1, filters=4, nodes=4, norm="none").eval()


@pytest.mark.slow
def test_maps_by_captum_are_captums(network, volume):
    blank = torch.full_like(volume, float(volume.mean()))
    path = attr.IntegratedGradients(network).attribute(volume, blank, target=1, n_steps=32)
    expected = _scaled(path.detach().numpy()[0, 0])
    found = class_map(network, volume, 1, "integrated_gradients")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    blocks = supervoxels(SHAPE)
    lime = attr.Lime(network, SkLearnRidge(alpha=1.0))
    for kind, surrogate in (("shap", attr.KernelShap(network)), ("lime", lime)):
        torch.manual_seed(0)
        its = surrogate.attribute(
            volume,
            blank,
            target=1,
            feature_mask=blocks[None, None],
            n_samples=256,
            perturbations_per_eval=16,
        )
        found = class_map(network, volume, 1, kind)
        np.testing.assert_allclose(found, _scaled(its.numpy()[0, 0]), atol=1e-5)


def test_a_linear_models_maps_are_its_weights_times_the_change(volume):
    torch.manual_seed(0)
    model = Linear()
    weight = model.layer.weight[1].detach().reshape(SHAPE).numpy()
    change = weight * (volume - volume.mean())[0, 0].numpy()
    found = class_map(model, volume, 1, "integrated_gradients")
    np.testing.assert_allclose(found, _scaled(change), atol=1e-4)
    blocks = supervoxels(SHAPE).numpy()
    assert sorted(np.bincount(blocks.ravel())) == [8] * 64
    sums = np.bincount(blocks.ravel(), change.ravel())[blocks]
    np.testing.assert_allclose(class_map(model, volume, 1, "shap"), _scaled(sums), atol=0.02)
    lime = class_map(model, volume, 1, "lime").ravel()
    assert np.corrcoef(lime, _scaled(sums).ravel())[0, 1] > 0.9


def test_gradcam_plus_plus_is_monais(network, volume):
    camera = GradCAMpp(network, "encoder.0.0", postprocessing=lambda heat: heat)
    expected = camera(volume.clone().requires_grad_(), class_idx=1)[0, 0].detach().numpy()
    found = class_map(network, volume, 1, "gradcam++")
    np.testing.assert_allclose(found, _scaled(expected), atol=1e-5)


def test_the_covariates_of_a_scan_stay_as_they_are_while_its_voxels_change(volume):
    torch.manual_seed(0)
    model = Classifier(2, SHAPE, depth=1, filters=2, nodes=2, norm="none", num_covariates=1)
    for kind in ("integrated_gradients", "shap"):
        assert class_map(model, volume, 1, kind, torch.ones(1, 1)).shape == SHAPE


def test_weights_in_another_order_tell_a_map_that_shows_the_scan_alone(network, volume):
    other = randomised(network)
    pairs = list(zip(network.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a.flatten().sort()[0], b.flatten().sort()[0]) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in pairs)
    learned = class_map(network, volume, 1, "integrated_gradients")
    shuffled = class_map(other, volume, 1, "integrated_gradients")
    assert likeness(learned, shuffled) == pytest.approx(
        spearmanr(learned.ravel(), shuffled.ravel()).statistic
    )
    assert "depend on what was learned" in likeness_words([likeness(learned, shuffled), 0.1, 0.2])
    assert "mean little" in likeness_words(
        [0.9, 0.7, 0.1]
    )  # of edges: the same whatever is learned
    assert likeness(learned, np.zeros(SHAPE)) == 0
