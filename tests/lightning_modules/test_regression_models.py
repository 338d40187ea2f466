"""Models with one output that is a number: their loss, what they refuse, what they return."""

import pytest
import torch
from torch.nn import functional as F

from callbacks.model_contract import ModelContract
from lightning_modules.classical import REGRESSION_METHODS, fit_method
from lightning_modules.classifier import Classifier
from lightning_modules.deployment import FoldNumber
from lightning_modules.imagenet_baseline import ImageNetBaseline
from lightning_modules.objective import Objective

SHAPE = (8, 8, 8)
BATCH = {
    "volume": torch.rand(3, 1, *SHAPE),
    "label": torch.tensor([-1.0, 0.2, 2.5]),
    "row": torch.arange(3),
}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Classifier(1, SHAPE, depth=1, filters=2, nodes=4)


def test_the_loss_is_the_squared_or_hubers_error_of_the_standardised_target():
    outputs, target = torch.tensor([[0.5], [3.0]]), torch.tensor([[0.0], [0.0]])
    assert Objective(1)(outputs, target) == F.mse_loss(outputs, target)
    assert Objective(1, "huber")(outputs, target) == pytest.approx((0.125 + 2.5) / 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "bce"}, "loss is bce, but a number is predicted: use mse or huber"),
        ({"label_smoothing": 0.1}, "are for classes, but a number is predicted"),
        ({"class_weights": "balanced"}, "are for classes, but a number is predicted"),
    ],
)
def test_settings_for_classes_are_refused_where_a_number_is_predicted(settings, words):
    with pytest.raises(ValueError, match=words):
        Objective(1, **settings)


def test_a_regressions_loss_is_refused_where_classes_are_predicted():
    with pytest.raises(ValueError, match="loss is mse, but classes are predicted: use bce or"):
        Objective(2, "mse")


def test_a_network_returns_one_number_a_scan_and_learns_from_its_target(network):
    prediction = network.eval().predict_step(BATCH, 0)
    assert prediction["value"].shape == (3, 1)
    torch.testing.assert_close(prediction["value"], network(BATCH["volume"]))
    loss = network.training_loss([BATCH["volume"]], network.truth(BATCH))
    torch.testing.assert_close(loss, F.mse_loss(network(BATCH["volume"])[:, 0], BATCH["label"]))
    fold = FoldNumber(network, 0.5, 2.0, target_mean=40.0, target_sd=10.0)
    expected = 40 + 10 * network((BATCH["volume"] - 0.5) / 2)
    torch.testing.assert_close(fold(BATCH["volume"]), expected)


def test_slices_of_the_2d_baseline_are_averaged_and_have_no_vote():
    torch.manual_seed(0)
    settings = {"weights": "none", "num_slices": 4, "image_size": 32}
    model = ImageNetBaseline(1, SHAPE, **settings).eval()
    slices = model.slice_logits(BATCH["volume"])
    torch.testing.assert_close(model(BATCH["volume"]), slices.mean(1))
    with pytest.raises(ValueError, match="aggregation is vote"):
        ImageNetBaseline(1, SHAPE, aggregation="vote", **settings)


def test_a_model_that_returns_probabilities_in_the_place_of_a_number_is_refused(network):
    class Trainer:
        class datamodule:  # noqa: N801
            class_names = ()

        class precision_plugin:  # noqa: N801
            forward_context = staticmethod(torch.no_grad)

    ModelContract().on_train_batch_start(Trainer, network, BATCH, 0)
    network.predict_step = lambda batch, _: {
        "row": batch["row"],
        "value": network(batch["volume"]).sigmoid(),
    }
    with pytest.raises(ValueError, match="value is not what forward returns"):
        ModelContract().on_train_batch_start(Trainer, network, BATCH, 0)
    network.predict_step = lambda batch, _: {"row": batch["row"], "prob": batch["label"]}
    with pytest.raises(ValueError, match=r"'value': what forward returns, \(B, 1\)"):
        ModelContract().on_train_batch_start(Trainer, network, BATCH, 0)


@pytest.mark.slow
def test_classical_methods_follow_the_unit_of_the_target():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=generator).numpy()
    target = features[:, 0] + 0.1 * torch.randn(40, generator=generator).numpy()
    groups = [str(n) for n in range(40)]
    for name in ("ridge", "svr", "mean"):
        method = REGRESSION_METHODS[name]
        one = fit_method(method, features, target, groups, seed=0).predict(features)
        other = fit_method(method, features, 1000 * target + 7, groups, seed=0).predict(features)
        assert other == pytest.approx(1000 * one + 7, rel=1e-4, abs=0.2), name
