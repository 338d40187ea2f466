"""What cached features and stacked heads gain: ratios, measured in turn in one process.

    python -m benchmarks.frozen [SHAPE …]        a shape is 40x40x40

1. Features of all scans computed by a frozen encoder, layer by layer as torch does and in one pass
   as we do, against the same read from the cache.
2. An epoch of head training through the encoder, against one on cached outputs.
3. Heads trained one after another on cached outputs, against the same heads in stacks.

Both ways make the same steps on the same scans with the same optimizer; that they end with the
same outputs is checked. The last column is as many epochs through the encoder as there are heads,
against the stacks. No data loader and no Lightning on any side. Times are CPU times of one thread,
which other processes disturb less than wall times.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training_step import leave_layers_apart
from commands.training.probes import stack_size
from lightning_modules.classifier import Classifier
from lightning_modules.finetuning import Finetuning, configure_finetuning
from lightning_modules.objective import Objective
from lightning_modules.stacked_heads import StackedBatch, StackedHeads

SHAPES = ("24x48x16", "40x40x40", "64x64x64")
NUM_SCANS, BATCH_SIZE, NUM_HEADS, NODES, NUM_EPOCHS, ROUNDS = 48, 8, 45, 32, 3, 5
OBJECTIVE = Objective(2)
Rows = Callable[[Tensor], Tensor]
Trained = tuple[float, Tensor]


def tables(shapes: Sequence[str]) -> list[str]:
    """Lines of a Markdown table with a row for each shape, as `40x40x40`."""
    torch.set_num_threads(1)
    columns = ["voxels", "features", "all features computed in torch's layers", "in one pass"]
    columns += ["read", "ratios"]
    columns += ["a head through the encoder", "on cached outputs", "ratio"]
    columns += [f"{NUM_HEADS} heads one after another", "in stacks of", "together", "ratio", "both"]
    lines = [
        f"{NUM_SCANS} scans, batch {BATCH_SIZE}, {NODES} nodes, one thread; CPU ms per epoch, "
        f"medians of {ROUNDS} rounds in turn. `both`: {NUM_HEADS} times an epoch through the "
        "encoder, against the stacks.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for shape in shapes:
        width, height, depth = (int(size) for size in shape.split("x"))
        lines.append(f"| {shape} | {measure((width, height, depth))} |")
    return lines


def measure(shape: tuple[int, int, int]) -> str:
    """Measure the ratios for volumes of one shape; a row of the table."""
    torch.manual_seed(0)
    model = Classifier(2, shape, nodes=NODES, freeze_encoder=True).eval()
    scans = torch.rand(NUM_SCANS, 1, *shape).half()

    @torch.no_grad()
    def encode(rows: Tensor) -> Tensor:
        return model.features(scans[rows].float())

    cached = torch.cat([encode(rows) for rows in torch.arange(NUM_SCANS).split(BATCH_SIZE)]).half()
    heads = [Classifier(2, shape, nodes=NODES).head for _ in range(NUM_HEADS)]
    orders = [torch.randperm(NUM_SCANS) for _ in heads]
    size = min(stack_size(cached.shape[1] * NODES, torch.device("cpu")), NUM_HEADS)

    def read(rows: Tensor) -> Tensor:
        return cached[rows].float()

    def apart() -> Trained:
        return _joined(
            [_alone(*pair, read, read, NUM_EPOCHS) for pair in zip(heads, orders, strict=True)]
        )

    def in_stacks() -> Trained:
        starts = range(0, NUM_HEADS, size)
        return _joined(
            [_stack(heads[at : at + size], orders[at : at + size], read) for at in starts]
        )

    layers = copy.deepcopy(model)
    leave_layers_apart(layers)
    everyone = torch.arange(NUM_SCANS).split(BATCH_SIZE)

    @torch.no_grad()
    def encode_in_layers(rows: Tensor) -> Tensor:
        return layers.features(scans[rows].float())

    def all_by(way: Rows) -> Callable[[], Trained]:
        return lambda: _timed(lambda: torch.cat([way(rows) for rows in everyone]))

    computed, at_once, read_again = _in_turn(*map(all_by, (encode_in_layers, encode, read)))
    slow, fast = _in_turn(
        lambda: _alone(heads[0], orders[0], encode, read, 1),
        lambda: _alone(heads[0], orders[0], read, read, 1),
    )
    alone, together = _in_turn(apart, in_stacks)
    return (
        f"{cached.shape[1]} | {computed:.0f} | {at_once:.0f} | {read_again:.2f} | "
        f"{computed / read_again:.0f}, {at_once / read_again:.0f} | "
        f"{slow:.0f} | {fast:.2f} | {slow / fast:.0f} | {alone:.0f} | {size} | "
        f"{together:.1f} | {alone / together:.1f} | {NUM_HEADS * slow / together:.0f}"
    )


def _alone(
    head: nn.Sequential, order: Tensor, features: Rows, read: Rows, num_epochs: int
) -> Trained:
    """Train a copy of one head; ms per epoch, and what it then makes of all scans, (1, N, K)."""
    head = copy.deepcopy(head)
    optimizer, schedule = _optimizer(head)
    started = time.process_time()
    for _ in range(num_epochs):
        for rows in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            OBJECTIVE(head(features(rows)), rows % 2).backward()
            optimizer.step()
            schedule.step()
    taken = (time.process_time() - started) * 1e3 / num_epochs
    return taken, head(read(torch.arange(NUM_SCANS))).detach()[None]


def _stack(heads: Sequence[nn.Sequential], orders: Sequence[Tensor], read: Rows) -> Trained:
    """Train copies of heads together; ms per epoch, and what they make of all scans, (H, N, K)."""
    stack = StackedHeads(heads)
    optimizer, schedule = _optimizer(stack)
    sizes = torch.full((len(heads),), BATCH_SIZE)
    batches = torch.stack(list(orders)).split(BATCH_SIZE, dim=1)
    started = time.process_time()
    for _ in range(NUM_EPOCHS):
        served = (StackedBatch(read(rows), rows % 2, sizes) for rows in batches)
        stack.train_epoch(served, OBJECTIVE, optimizer, schedule)
    taken = (time.process_time() - started) * 1e3 / NUM_EPOCHS
    return taken, stack(read(torch.arange(NUM_SCANS)).expand(len(heads), -1, -1)).detach()


def _timed(work: Callable[[], Tensor]) -> Trained:
    """CPU milliseconds of some work, and what it returns."""
    started = time.process_time()
    made = work()
    return (time.process_time() - started) * 1e3, made


def _joined(parts: Sequence[Trained]) -> Trained:
    return sum(taken for taken, _ in parts), torch.cat([outputs for _, outputs in parts])


def _optimizer(module: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    made: Any = configure_finetuning(
        module.parameters(),
        nn.Identity(),
        Finetuning(),
        lr=1e-3,
        encoder_lr_factor=1.0,
        weight_decay=0.01,
        max_epochs=NUM_EPOCHS,
        num_steps=NUM_EPOCHS * NUM_SCANS // BATCH_SIZE,
        fused=True,  # for both: it is torch's fastest
    )
    return made["optimizer"], made["lr_scheduler"]["scheduler"]


def _in_turn(*ways: Callable[[], Trained]) -> list[float]:
    """Median milliseconds per epoch of some ways, one after the other in every round."""
    times = []
    for _ in range(ROUNDS + 1):
        ends = [way() for way in ways]
        for _, made in ends[1:]:  # the cache holds float16
            torch.testing.assert_close(ends[0][1], made, rtol=0, atol=1e-3)
        times.append([taken for taken, _ in ends])
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


if __name__ == "__main__":
    print(*tables(sys.argv[1:] or SHAPES), sep="\n")
