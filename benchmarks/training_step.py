"""What a training step costs: memory formats, bfloat16, one pass for convolution and pooling."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Rates, ratio, take_turns
from lightning_modules.classifier import Classifier
from lightning_modules.pretraining.autoencoder import Autoencoder

PLAIN = "float32"
OURS = "channels last, one pass"
MATMUL_SIZE = 2048


def measure(_: Path, until: float, *, num_rounds: int, flops_a_turn: float) -> Iterator[str]:
    """Compare forward, backward and optimizer step of both networks; give lines of Markdown."""
    peaks = {name: _matmul_flops(getattr(torch, name)) for name in (PLAIN, "bfloat16")}
    head = [
        "Matrix product of "
        + ", ".join(f"{name}: {flops / 1e9:,.0f} GFLOP/s" for name, flops in peaks.items())
        + f" ({MATMUL_SIZE} × {MATMUL_SIZE}). Times as fast as torch's layers in {PLAIN} and the "
        f"usual memory format; '{OURS}' is how it trains on a CPU, in {PLAIN}. Shares of the "
        f"{PLAIN} peak count the operations of torch's layers:",
        "",
        "| step | samples/s | " + " | ".join(_ways()) + " | share of the peak | in one pass |",
        "|---|---|" + "---|" * (len(_ways()) + 2),
    ]
    networks = (
        ("classifier, 24 × 48 × 16", (24, 48, 16), 8),
        ("autoencoder, 25 × 25 × 4", (25, 25, 4), 256),
        ("classifier, 64³", (64, 64, 64), 8),
    )
    for place, (name, shape, batch_size) in enumerate(networks):
        now = time.monotonic()
        own = now + (until - now) / (len(networks) - place)
        rates, num_flops = _rates(shape, batch_size, num_rounds, flops_a_turn, own)
        plain, ours = (float(np.median(rates[way])) for way in (PLAIN, OURS))
        ratios = " | ".join(ratio(rates, way, PLAIN) for way in _ways())
        shares = " | ".join(f"{rate * num_flops / peaks[PLAIN]:.0%}" for rate in (plain, ours))
        yield from head if not place else ()
        yield f"| {name}, batch {batch_size} | {plain:,.0f} | {ratios} | {shares} |"


def training_step(
    shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
    *,
    bf16: bool = False,
    channels_last: bool = False,
    one_pass: bool = False,
    depth: int = 3,
    filters: int = 16,
) -> Callable[[Tensor], Tensor]:
    """Return a function that does one step on a batch and gives its loss.

    Args:
        shape: Voxels of a volume; thin ones are patches to be reconstructed, others are classified.
        device: Where the network lives.
        bf16: Whether the forward pass computes in bfloat16 where autocast does.
        channels_last: Whether weights and volumes are stored with the channel last.
        one_pass: Whether convolution and pooling are one pass, where they can be.
        depth: Number of convolutions.
        filters: Filters of each convolution.
    """
    torch.manual_seed(0)
    patches = min(shape) < 8
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    model: Any = (
        Autoencoder(depth=depth, filters=filters)
        if patches
        else Classifier(2, shape, depth, filters, dropout=0.0)  # every way drops other numbers
    )
    model.to(device).to(memory_format=memory_format)
    if not one_pass:
        leave_layers_apart(model)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(volume: Tensor) -> Tensor:
        volume = volume.contiguous(memory_format=memory_format)
        optimizer.zero_grad()
        with torch.autocast(volume.device.type, torch.bfloat16, enabled=bf16):
            output = model(volume)
        if patches:
            loss = F.mse_loss(output.float(), volume)
        else:
            loss = F.binary_cross_entropy_with_logits(
                output.float(), torch.zeros_like(output.float())
            )
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def leave_layers_apart(model: Any) -> None:
    """Let torch compute an encoder's layers one by one, as in a network of torch's layers."""
    for place, block in enumerate(model.encoder):
        model.encoder[place] = nn.Sequential(*block)


def _rates(
    shape: tuple[int, int, int],
    batch_size: int,
    num_rounds: int,
    flops_a_turn: float,
    until: float,
) -> tuple[Rates, float]:
    volume = torch.rand(batch_size, 1, *shape)
    with FlopCounterMode(display=False) as counter:
        training_step(shape)(volume)
    num_flops = float(counter.get_total_flops()) / batch_size
    num_steps = max(1, round(flops_a_turn / num_flops / batch_size))

    def turn(step: Callable[[Tensor], Tensor]) -> Callable[[], int]:
        def work() -> int:
            for _ in range(num_steps):
                step(volume)
            return num_steps * len(volume)

        return work

    ways = {PLAIN: turn(training_step(shape))}
    ways |= {name: turn(training_step(shape, **settings)) for name, settings in _ways().items()}
    return take_turns(ways, num_rounds, until), num_flops


def _ways() -> dict[str, dict[str, Any]]:
    return {
        "channels last": {"channels_last": True},
        "bfloat16": {"bf16": True},
        "bfloat16, channels last": {"bf16": True, "channels_last": True},
        OURS: {"channels_last": True, "one_pass": True},
    }


def _matmul_flops(dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, the best of some."""
    one = torch.rand(MATMUL_SIZE, MATMUL_SIZE).to(dtype)

    def work() -> int:
        torch.mm(one, one)
        return 2 * MATMUL_SIZE**3

    until = time.monotonic() + 3  # without instructions of its own, bfloat16 takes long
    return float(take_turns({"mm": work}, 8, until)["mm"].max())
