import copy

import pytest
import timm
import torch
from torch import nn

from commands.runs.early_check import check_early
from lightning_modules.encoder import Encoder
from lightning_modules.finetuning import Finetuning, configure_finetuning
from lightning_modules.parts.optimizers import build_optimizer, check_optimizer


def _parameters():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    return layer, [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 0.02}]


def _step(layer, optimizer, count=3):
    for number in range(count):
        optimizer.zero_grad()
        layer(torch.full((1, 3), number + 1.0)).square().sum().backward()
        optimizer.step()
    return torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("adamw", lambda groups: torch.optim.AdamW(groups, 0.1, weight_decay=0.3, fused=True)),
        (
            "sgd",
            lambda groups: torch.optim.SGD(groups, 0.1, 0.9, weight_decay=0.3, nesterov=True),
        ),
        ("momentum", lambda groups: torch.optim.SGD(groups, 0.1, 0.9, weight_decay=0.3)),
        ("radam", lambda groups: torch.optim.RAdam(groups, 0.1, weight_decay=0.3)),
    ],
)
def test_optimizers_are_those_of_torch_with_a_rate_for_each_group(name, by_hand):
    (one, groups), (other, same) = _parameters(), _parameters()
    found = build_optimizer(name, groups, lr=0.1, weight_decay=0.3, fused=True)
    assert torch.equal(_step(one, found), _step(other, by_hand(same)))


@pytest.mark.parametrize("name", ["lion", "adan", "lookahead_radam"])
def test_an_optimizer_goes_on_where_its_state_was_saved(name):
    first, groups = _parameters()
    before = build_optimizer(name, groups, lr=0.1, weight_decay=0.1)
    _step(first, before, 7)
    second, others = _parameters()
    second.load_state_dict(first.state_dict())
    after = build_optimizer(name, others, lr=0.1, weight_decay=0.1)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert torch.equal(_step(second, after), _step(first, before))


def test_names_that_are_not_there_are_told_with_similar_ones():
    for name, words in (
        ("adamz", r"no optimizer 'adamz'; similar ones: .*adam"),
        ("lookahead_lionn", "similar ones: lion"),
        ("adahessian", "no optimizer 'adahessian'"),
        ("bnbadam", "no optimizer 'bnbadam'"),
        ("", "similar ones: adamw, sgd"),
    ):
        with pytest.raises(ValueError, match=words):
            check_optimizer(name)
    for name in ("adamw", "lookahead_radam", "nesterov"):
        check_optimizer(name)


def _rates(num_steps=24, **settings):
    encoder, head = Encoder(1, 4), nn.Linear(4, 2)
    configured = configure_finetuning(
        head.parameters(),
        encoder,
        Finetuning(**settings),
        lr=0.5,
        encoder_lr_factor=1.0,
        weight_decay=0.0,
        max_epochs=12,
        num_steps=num_steps,
    )
    return _follow(configured["optimizer"], configured["lr_scheduler"]["scheduler"], num_steps)


def _follow(optimizer, schedule, num_steps):
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates)


def test_cyclic_rates_are_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.05, 0.5, 4, cycle_momentum=False)
    expected = _follow(optimizer, schedule, 24)
    torch.testing.assert_close(_rates(schedule="cyclic", num_cycles=3), expected)


def test_a_cosine_of_several_cycles_is_that_of_torchs_warm_restarts():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 8)
    expected = _follow(optimizer, schedule, 24)
    torch.testing.assert_close(_rates(schedule="cosine", num_cycles=3), expected)
    with pytest.raises(ValueError, match="num_cycles is 0; set it to 1 or more"):
        _rates(schedule="cosine", num_cycles=0)


def test_settings_of_networks_and_optimizers_are_checked_before_anything_is_imported(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("patient_id,image,label\n")
    given = ["-cconfigs/finetune.yaml", f"--data.table={table}"]
    known = ["optimizer=sgd", "finetuning.num_cycles=3", "attention=se", "kernel_size=5"]
    known += ["lora_rank=4", "fuse=add"]
    check_early("finetune", [*given, *(f"--model.{each}" for each in known)])
    for wrong, right in (("optimiser", "optimizer"), ("finetuning.num_cycle", "num_cycles")):
        with pytest.raises(ValueError, match=f"no setting --model.{wrong}.*{right}"):
            check_early("finetune", [*given, f"--model.{wrong}=x"])


def test_timm_has_the_optimizers_that_the_pages_name():
    names = timm.optim.list_optimizers()
    assert {"sgd", "nesterov", "radam", "lion", "adan", "lamb", "adabelief"} <= {*names}
