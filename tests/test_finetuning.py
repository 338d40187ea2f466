import pytest
import timm
import torch
from torch import nn

from lightning_modules.encoder import Encoder
from lightning_modules.finetuning import Finetuning, configure_finetuning, layers_of


def _configure(finetuning, max_epochs=10, num_steps=40, encoder_lr_factor=1.0):
    encoder, head = Encoder(3, 4), nn.Linear(4, 2)
    configured = configure_finetuning(
        head.parameters(),
        encoder,
        finetuning,
        lr=0.1,
        encoder_lr_factor=encoder_lr_factor,
        weight_decay=0.5,
        max_epochs=max_epochs,
        num_steps=num_steps,
    )
    return head, encoder, configured["optimizer"], configured["lr_scheduler"]["scheduler"]


def _rates(finetuning, num_steps=40, **settings):
    """Learning rate of head and layers, the topmost first, at the first step of each epoch."""
    *_, optimizer, schedule = _configure(finetuning, num_steps=num_steps, **settings)
    rates = []
    for step in range(num_steps):
        if step % (num_steps // 10) == 0:
            rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates)


def test_the_default_is_one_constant_rate():
    assert (_rates(Finetuning()) == 0.1).all()


def test_the_head_learns_alone_first():
    rates = _rates(Finetuning(head_epochs=3), encoder_lr_factor=0.5)
    assert (rates[:, 0] == 0.1).all()
    assert (rates[:3, 1:] == 0).all()
    torch.testing.assert_close(rates[3:, 1:], torch.full((7, 3), 0.05))


def test_gradual_unfreezing_goes_from_the_top_down():
    rates = _rates(Finetuning(head_epochs=1, unfreeze_every=2))
    begins = [int((rates[:, layer] > 0).float().argmax()) for layer in range(4)]
    assert begins == [0, 1, 3, 5]


def test_layer_decay_lowers_the_rate_from_layer_to_layer():
    rates = _rates(Finetuning(layer_decay=0.5), encoder_lr_factor=0.4)
    torch.testing.assert_close(rates[0], torch.tensor([0.1, 0.04, 0.02, 0.01]))


def test_the_cosine_begins_after_the_warm_up_and_ends_at_nothing():
    rates = _rates(Finetuning(schedule="cosine", warmup_epochs=2))[:, 0]
    torch.testing.assert_close(rates[:3], torch.tensor([0.0, 0.05, 0.1]))
    torch.testing.assert_close(rates[6], torch.tensor(0.05))
    assert (rates[2:].diff() < 0).all()
    assert rates[9] < 0.005


def test_a_frozen_layer_stays_bit_for_bit_and_learns_once_it_is_free():
    head, encoder, optimizer, schedule = _configure(Finetuning(head_epochs=1), num_steps=20)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    for step in range(3):
        optimizer.zero_grad()
        head(encoder(torch.ones(2, 1, 8, 8, 8)).mean((2, 3, 4))).square().sum().backward()
        optimizer.step()
        schedule.step()
        same = [torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items()]
        assert all(same) if step < 2 else not any(same)


def test_a_strategy_that_never_reaches_the_lowest_layer_is_refused():
    for strategy in (
        Finetuning(head_epochs=10),
        Finetuning(head_epochs=4, unfreeze_every=3),
        Finetuning(warmup_epochs=10),
    ):
        with pytest.raises(ValueError, match=r"there are 10 epochs\. Lower head_epochs"):
            _configure(strategy)
    with pytest.raises(ValueError, match="must not be negative"):
        _configure(Finetuning(head_epochs=-1))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vit_tiny_patch16_224"])
def test_layers_hold_every_parameter_once_the_topmost_first(name):
    encoder = timm.create_model(name, num_classes=0)
    layers = layers_of(encoder)
    placed = [id(parameter) for layer in layers for parameter in layer]
    assert sorted(placed) == sorted(id(parameter) for parameter in encoder.parameters())
    names = [name for name, _ in encoder.named_parameters()]
    owner = dict(zip((id(p) for p in encoder.parameters()), names, strict=True))
    assert owner[id(layers[0][0])].split(".")[0] in ("layer4", "features", "norm")
    assert len(layers) >= 5
    assert id(next(encoder.parameters())) in {id(parameter) for parameter in layers[-1]}


@pytest.mark.parametrize(("norm", "depth"), [("none", 3), ("batch", 3), ("batch", 1)])
def test_a_convolution_of_the_paper_is_one_layer_with_its_norm(norm, depth):
    layers = layers_of(Encoder(depth, 4, norm=norm))
    assert len(layers) == depth
    assert {len(layer) for layer in layers} == {2 if norm == "none" else 4}


def test_a_wrapper_is_not_a_layer():
    network = timm.create_model("resnet18", num_classes=0)
    wrapped = nn.ModuleDict({"network": network})
    sizes = [len(layer) for layer in layers_of(wrapped)]
    assert sizes == [len(layer) for layer in layers_of(network)]
    assert len(sizes) == 10  # 8 blocks, the first convolution and its norm
