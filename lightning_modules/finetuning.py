"""How fast each layer learns, and when: one learning rate as a function of layer and time.

Frozen features, the head first, gradual unfreezing, layer-wise rates, warm-up and a cosine are all
factors of it. A frozen layer has the rate 0 and is in evaluation mode, so that its norm's running
statistics stay as well. Its gradient is still computed: nothing changes for distributed runs, and a
resumed run goes on exactly.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from lightning_modules.parts.branches import has_branches
from lightning_modules.parts.optimizers import build_optimizer

LOWEST_RATE = 0.1  # between cycles, as a multiple of the highest


@dataclass(frozen=True)
class Finetuning:
    """Strategy of fine-tuning; the default trains everything at a constant rate.

    Args:
        head_epochs: Epochs in which the head learns alone (linear probing).
        unfreeze_every: Epochs between the unfreezing of a layer of the encoder and of the next one
            below, from the top; 0 unfreezes all at once after `head_epochs`.
        layer_decay: Rate of a layer of the encoder as a multiple of that of the layer above.
        schedule: Whether the rate stays, falls to 0 along a cosine, or in each cycle rises from a
            tenth of it and falls back along lines (cyclic, Smith 2017).
        num_cycles: Cycles of the training; a cosine begins again at the full rate in each (warm
            restarts, Loshchilov and Hutter 2017).
        warmup_epochs: Epochs in which the rate rises linearly from 0.
    """

    head_epochs: int = 0
    unfreeze_every: int = 0
    layer_decay: float = 1.0
    schedule: Literal["constant", "cosine", "cyclic"] = "constant"
    num_cycles: int = 1
    warmup_epochs: float = 0.0

    def factor(self, depth: int, epoch: float, max_epochs: int) -> float:
        """Multiple of the base rate.

        Args:
            depth: 0 for the head, 1 for the topmost layer of the encoder, 2 for the next, ….
            epoch: Epochs since the start, with fractions.
            max_epochs: Length of the training.
        """
        if depth and epoch < self.head_epochs + self.unfreeze_every * (depth - 1):
            return 0.0
        factor = self.layer_decay ** max(depth - 1, 0)
        if epoch < self.warmup_epochs:
            return factor * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(max_epochs - self.warmup_epochs, 1e-9)
        cycles = min(done, 1.0) * self.num_cycles
        done = cycles - min(math.floor(cycles), self.num_cycles - 1)  # of the cycle
        if self.schedule == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "cyclic":
            factor *= 1 - (1 - LOWEST_RATE) * abs(2 * done - 1)
        return factor


def configure_finetuning(
    head: Iterable[nn.Parameter],
    encoder: nn.Module,
    finetuning: Finetuning,
    *,
    lr: float,
    encoder_lr_factor: float,
    weight_decay: float,
    max_epochs: int,
    num_steps: int,
    fused: bool | None = None,
    optimizer: str = "adamw",
) -> OptimizerLRSchedulerConfig:
    """Make the optimizer and its schedule, in the form that `configure_optimizers` returns.

    Args:
        head: Parameters of the head.
        encoder: The encoder; its layers are those of `layers_of`.
        finetuning: The strategy.
        lr: Rate of the head.
        encoder_lr_factor: Rate of the encoder's topmost layer, as a multiple of `lr`.
        weight_decay: Weight decay.
        max_epochs: Length of the training in epochs.
        num_steps: Length of the training in steps.
        fused: AdamW's way of going through the weights; None leaves it to torch.
        optimizer: Its name.

    Raises:
        ValueError: If the last layer would never learn, or a setting is out of range.
    """
    if has_branches(encoder) and (finetuning.unfreeze_every or finetuning.layer_decay != 1):
        raise ValueError(
            "Networks next to each other have no order of layers: leave "
            "--model.finetuning.unfreeze_every at 0 and layer_decay at 1."
        )
    layers = layers_of(encoder)
    begin = finetuning.head_epochs + finetuning.unfreeze_every * (len(layers) - 1)
    if min(finetuning.head_epochs, finetuning.unfreeze_every, finetuning.warmup_epochs) < 0:
        raise ValueError("head_epochs, unfreeze_every and warmup_epochs must not be negative.")
    if finetuning.num_cycles < 1:
        raise ValueError(f"num_cycles is {finetuning.num_cycles}; set it to 1 or more.")
    if max(begin, finetuning.warmup_epochs) >= max_epochs:
        raise ValueError(
            f"The lowest of {len(layers)} layers would begin to learn at epoch {begin}, and the "
            f"warm-up ends at {finetuning.warmup_epochs:g}, but there are {max_epochs} epochs. "
            "Lower head_epochs, unfreeze_every or warmup_epochs, or raise trainer.max_epochs."
        )
    groups: list[dict[str, Any]] = [{"params": list(head)}]
    groups += [{"params": layer, "lr": lr * encoder_lr_factor} for layer in layers]
    made = build_optimizer(optimizer, groups, lr=lr, weight_decay=weight_decay, fused=fused)
    steps_per_epoch = num_steps / max_epochs

    def at_depth(depth: int) -> Callable[[int], float]:
        return lambda step: finetuning.factor(depth, step / steps_per_epoch, max_epochs)

    factors = [at_depth(depth) for depth in range(len(groups))]
    schedule = torch.optim.lr_scheduler.LambdaLR(made, factors)
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fused_or_default(gradient_clip_val: float | None) -> bool | None:
    """Adam's way through the weights: fused, or torch's choice where gradients are clipped.

    Under mixed precision Lightning clips no gradients of a fused optimizer.

    Args:
        gradient_clip_val: The trainer's; None or 0 clips nothing.

    Returns:
        What Adam takes as `fused`.
    """
    return None if gradient_clip_val else True


def set_modes(encoder: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the layers that do not learn at this step in evaluation mode, and the others in training.

    Args:
        encoder: The encoder.
        optimizer: The one of `configure_finetuning`, its rates being those of the step.
    """
    learns = [
        group["lr"] > 0 and any(parameter.requires_grad for parameter in group["params"])
        for group in optimizer.param_groups[1:]
    ]
    modes = [(encoder, any(learns))]
    for parts, layer_learns in zip(_parts_of_layers(encoder), learns, strict=True):
        modes += [(part, layer_learns) for part in parts]
    if any(part.training != training for part, training in modes):
        for part, training in modes:
            part.train(training)


def layers_of(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Divide a network into layers, the topmost first; every parameter is in one of them.

    Chains of blocks and wrappers are taken apart, anything else is one layer. Parameters that
    belong to no part, such as a class token, go with the lowest layer.
    """
    layers = [
        [parameter for part in parts for parameter in part.parameters()]
        for parts in _parts_of_layers(encoder)
    ]
    placed = {id(parameter) for layer in layers for parameter in layer}
    loose = [parameter for parameter in encoder.parameters() if id(parameter) not in placed]
    return [*layers[:-1], loose + layers[-1]] if loose else layers


def _parts_of_layers(encoder: nn.Module) -> list[list[nn.Module]]:
    """Modules of each layer, the topmost first; one without parameters goes with the one below."""
    parts = [encoder]
    while len(parts) == 1 and any(list(child.children()) for child in parts[0].children()):
        parts = [part for child in parts[0].children() for part in _parts(child)]
    layers: list[list[nn.Module]] = [[]]
    for part in parts:
        if _has_parameters(part) and any(map(_has_parameters, layers[-1])):
            layers.append([])
        layers[-1].append(part)
    return layers[::-1] if _has_parameters(encoder) else []


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _parts(module: nn.Module) -> list[nn.Module]:
    children = list(module.children())
    chained = isinstance(module, nn.Sequential | nn.ModuleList) or len(children) == 1
    if not chained or not any(list(child.children()) for child in children):
        return [module]  # a block
    return [part for child in children for part in _parts(child)]
