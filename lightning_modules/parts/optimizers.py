"""Optimizers by the names of timm; AdamW is torch's own."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import torch
from torch.optim import Optimizer

DEFAULT = "adamw"
LOOKAHEAD = "lookahead_"  # before another name: averages every few steps (Zhang et al. 2019)
SECOND_ORDER = ("adahessian",)  # wants gradients of gradients, which no step here computes
OTHER_PACKAGES = ("fused", "bnb")  # of NVIDIA's apex and bitsandbytes


def check_optimizer(name: str) -> None:
    """Refuse a name that no optimizer has.

    Args:
        name: 'adamw', another name of timm.optim, or one with 'lookahead_' before it.

    Raises:
        ValueError: If there is none, or it needs what is not here.
    """
    if name == DEFAULT:
        return
    from timm.optim import list_optimizers  # takes seconds, and few runs need it

    known = [
        each
        for each in map(str, list_optimizers())
        if each not in SECOND_ORDER and not each.startswith(OTHER_PACKAGES)
    ]
    plain = name.removeprefix(LOOKAHEAD)
    if plain not in known:
        near = get_close_matches(plain, known, 5, 0.4) or [DEFAULT, "sgd", "radam", "lion"]
        raise ValueError(
            f"There is no optimizer {name!r}; similar ones: {', '.join(near)}, each also with "
            f"{LOOKAHEAD} before it."
        )


def build_optimizer(
    name: str,
    groups: Iterable[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    fused: bool | None = None,
) -> Optimizer:
    """Make an optimizer.

    Args:
        name: One that `check_optimizer` takes.
        groups: Groups of parameters, perhaps with rates of their own.
        lr: Learning rate of groups that have none.
        weight_decay: Weight decay.
        fused: AdamW's way of going through the weights; None leaves it to torch.
    """
    if name == DEFAULT:
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(list(groups), name, lr=lr, weight_decay=weight_decay)
