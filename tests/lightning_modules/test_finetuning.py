from typing import ClassVar

import pytest
import timm
import torch
from lightning import Callback, LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.classifier import Classifier
from lightning_modules.encoder import Encoder
from lightning_modules.finetuning import Finetuning, configure_finetuning, layers_of, set_modes
from lightning_modules.imagenet_baseline import ImageNetBaseline


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


class _Scans(LightningDataModule):
    training_patients: ClassVar = {"p1"}
    held_out_patients: ClassVar = set()
    training_scans: ClassVar = {}

    def _loader(self):
        generator = torch.Generator().manual_seed(0)
        volumes = torch.rand(6, 1, 8, 8, 8, generator=generator)
        scans = [
            {"volume": volume, "label": torch.tensor(row % 2), "row": torch.tensor(row)}
            for row, volume in enumerate(volumes)
        ]
        return DataLoader(scans, batch_size=3)

    train_dataloader = val_dataloader = _loader


class _Watch(Callback):
    """Note after each epoch, validation included, which norms have moved since the last one."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.moved = []
        self.before = self._statistics()

    def _statistics(self):
        return [
            norm.running_mean.clone()
            for norm in self.encoder.modules()
            if isinstance(norm, nn.modules.batchnorm._BatchNorm)
        ]

    def on_train_epoch_end(self, trainer, module):
        now = self._statistics()
        self.moved.append([not torch.equal(a, b) for a, b in zip(self.before, now, strict=True)])
        self.before = now


def _fit(model, tmp_path, max_epochs, *callbacks, ckpt_path=None, **settings):
    watch = _Watch(model.encoder)
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, *callbacks],
        default_root_dir=tmp_path,
        **settings,
    )
    trainer.fit(model, _Scans(), ckpt_path=ckpt_path, weights_only=ckpt_path is not None)
    return trainer, watch.moved


GRADUALLY = Finetuning(head_epochs=1, unfreeze_every=2)
UNFROZEN = [  # of the norms, the lowest first, epoch after epoch
    [False, False, False],
    [False, False, True],
    [False, False, True],
    [False, True, True],
    [False, True, True],
    [True, True, True],
]


def _paper_network(finetuning, **settings):
    torch.manual_seed(0)
    return Classifier(
        2, (8, 8, 8), filters=4, nodes=4, norm="batch", finetuning=finetuning, **settings
    )


@pytest.mark.slow
def test_a_norm_keeps_its_running_statistics_until_its_layer_learns(tmp_path):
    _, moved = _fit(_paper_network(GRADUALLY), tmp_path, 6)
    assert moved == UNFROZEN
    _, moved = _fit(_paper_network(Finetuning(head_epochs=2)), tmp_path, 3)
    assert moved == [[False] * 3, [False] * 3, [True] * 3]
    _, moved = _fit(_paper_network(Finetuning()), tmp_path, 1)
    assert moved == [[True] * 3]
    _, moved = _fit(_paper_network(Finetuning(), encoder_lr_factor=0.0), tmp_path, 1)
    assert moved == [[False] * 3]


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [3, 4, 5])
def test_a_training_that_goes_on_unfreezes_norms_where_the_whole_one_does(tmp_path, num_steps):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == num_steps:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    _fit(_paper_network(GRADUALLY), tmp_path, 6, Save())
    _, moved = _fit(_paper_network(GRADUALLY), tmp_path, 6, ckpt_path=tmp_path / "middle.ckpt")
    assert moved[-3:] == UNFROZEN[-3:]
    assert not any(norms[0] for norms in moved[:-1])


def test_accumulated_gradients_unfreeze_at_the_same_epoch(tmp_path):
    _, moved = _fit(_paper_network(GRADUALLY), tmp_path, 6, accumulate_grad_batches=2)
    assert moved == UNFROZEN


def test_a_batch_of_one_scan_changes_no_mode_of_a_backbone(tmp_path):
    model = Classifier(2, (16, 16, 16), backbone="resnet10")
    model.encoder.network.layer1.eval()
    before = {name: part.training for name, part in model.named_modules()}
    for num_scans in (1, 2):
        model.encoder(torch.rand(num_scans, 1, 16, 16, 16))
        assert before == {name: part.training for name, part in model.named_modules()}
    assert model.encoder.network.bn1.num_batches_tracked == 1
    assert model.encoder.network.layer1[0].bn1.num_batches_tracked == 0


@pytest.mark.slow
def test_a_backbone_keeps_its_running_statistics_as_well(tmp_path):
    settings = {"backbone": "resnet10", "finetuning": Finetuning(head_epochs=1)}
    _, moved = _fit(Classifier(2, (8, 8, 8), **settings), tmp_path, 2)
    assert not any(moved[0])
    assert all(moved[1])


@pytest.mark.slow
def test_the_baseline_keeps_its_running_statistics_as_well(tmp_path):
    model = ImageNetBaseline(
        2,
        (8, 8, 8),
        num_slices=2,
        weights="none",
        backbone="resnet18",
        image_size=32,
        finetuning=Finetuning(head_epochs=1, unfreeze_every=1),
    )
    _, moved = _fit(model, tmp_path, 11)
    num_moved = [sum(norms) for norms in moved]
    assert num_moved[0] == 0
    assert num_moved == sorted(num_moved)
    assert moved[1][-2:] == [True, True]  # those of the last block
    assert not any(moved[8][:1])
    assert all(moved[-1])


def test_the_mode_is_that_of_the_rate_for_each_part_and_the_dropout_in_it():
    encoder = nn.Sequential(
        nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2, affine=False), nn.Dropout()),
        nn.Sequential(nn.Conv3d(2, 2, 3), nn.BatchNorm3d(2), nn.Dropout()),
    )
    optimizer = configure_finetuning(
        nn.Linear(2, 2).parameters(),
        encoder,
        Finetuning(),
        lr=0.1,
        encoder_lr_factor=1.0,
        weight_decay=0.0,
        max_epochs=1,
        num_steps=1,
    )["optimizer"]
    _, upper, lower = optimizer.param_groups
    for upper["lr"], lower["lr"] in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.1), (0.0, 0.1)):
        set_modes(encoder, optimizer)
        for block, rate in zip(encoder, (lower["lr"], upper["lr"]), strict=True):
            assert {layer.training for layer in block.modules()} == {rate > 0}
    encoder[0].requires_grad_(False)
    set_modes(encoder, optimizer)
    assert not encoder[0][1].training


def test_an_encoder_without_weights_has_no_layers():
    assert layers_of(nn.Sequential(nn.ReLU(), nn.Flatten())) == []
