"""Training on a GPU: samples per second, the wait for data, memory, the paper's whole protocol."""

import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor

from benchmarks.cohort import as_it_is, write_cohort
from benchmarks.training_step import training_step
from datamodules.augmentation import Augmentation
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits

PATIENTS, REPEATS, EPOCHS, NODES = 45, 15, 150, 3  # the protocol, MCTL §4.2 and Table 1


def measure(
    folder: Path,
    until: float,
    *,
    device: str,
    size: int = 64,
    num_scans: int = 64,
    num_epochs: int = 20,
) -> Iterator[str]:
    """Train the classifier in bfloat16 on fresh copies; give lines of Markdown.

    Args:
        folder: Where the cohort is written.
        until: When its time is up; not looked at, being short.
        device: 'cuda', or 'cpu' to try the benchmark itself.
        size: Voxels along an axis.
        num_scans: Scans of the cohort.
        num_epochs: Epochs of each measurement, after one that does not count.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    module = _open(write_cohort(folder / f"cubes{size}", num_scans, size), size, device)
    samples_per_s, peak_mb = _rate(module, device, size, 3, 32, num_epochs)
    share = _wait_share(module, device, size, num_epochs)
    yield from [
        f"{name}, {num_scans} volumes of {size}³, fresh copies (rotation and shift), batches of "
        f"{module.batch_size}, bfloat16, channels last.",
        "",
        "| | |",
        "|---|---|",
        f"| samples/s, depth 3, 32 filters | {samples_per_s:,.0f} |",
        f"| share of the step that is spent on data and copies | {share:.1%} |",
        f"| peak memory of the GPU | {peak_mb:,.0f} MB |",
        "",
        f"The whole protocol, extrapolated: {PATIENTS} patients left out in turn × {REPEATS} "
        f"repeats × {EPOCHS} epochs × {PATIENTS - 1} scans = "
        f"{(visits := PATIENTS * REPEATS * EPOCHS * (PATIENTS - 1)):,} visits a setting; "
        f"{NODES} numbers of nodes for each row.",
        "",
        "| depth | filters | samples/s | hours = 3 × visits / rate / 3,600 |",
        "|---|---|---|---|",
    ]
    hours = 0.0
    for depth, filters in product((1, 2, 3), (16, 32, 64)):
        rate, _ = _rate(module, device, size, depth, filters, max(1, num_epochs // 4))
        hours += (own := NODES * visits / rate / 3600)
        yield f"| {depth} | {filters} | {rate:,.0f} | {own:,.1f} |"
    yield f"| all | | | {hours:,.1f} |"


def _open(table: Path, size: int, device: str) -> ScanDataModule:
    module = ScanDataModule(
        str(table),
        preprocessing=as_it_is(size),
        augmentation=Augmentation(mode="fresh"),
        splits=Splits(num_folds=2, num_repeats=1),
        batch_size=32,
        cache_dir=str(table.parent / "cache"),
    )
    accelerator = "gpu" if device == "cuda" else "cpu"
    module.trainer = Trainer(accelerator=accelerator, devices=1, max_epochs=1, logger=False)
    module.setup("fit")
    module.rows["train"] = np.arange(len(module.cohort.scans))
    return module


def _batches(module: ScanDataModule, device: str, num_epochs: int) -> Iterator[Tensor]:
    loader: Any = module.train_dataloader()
    for epoch in range(num_epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            there = module.transfer_batch_to_device(batch, torch.device(device), 0)
            yield module.on_after_batch_transfer(there, 0)["volume"]


def _step(device: str, size: int, depth: int, filters: int) -> Callable[[Tensor], Tensor]:
    settings: dict[str, Any] = {"depth": depth, "filters": filters}
    return training_step((size, size, size), device, bf16=True, channels_last=True, **settings)


def _rate(
    module: ScanDataModule, device: str, size: int, depth: int, filters: int, num_epochs: int
) -> tuple[float, float]:
    """Samples per second without waiting in between, and the peak memory in MB."""
    step = _step(device, size, depth, filters)
    for volume in _batches(module, device, 1):
        step(volume)
    _finish(device)
    started, number = time.perf_counter(), 0
    for volume in _batches(module, device, num_epochs):
        step(volume)
        number += len(volume)
    _finish(device)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else float("nan")
    return number / (time.perf_counter() - started), peak


def _wait_share(module: ScanDataModule, device: str, size: int, num_epochs: int) -> float:
    """Share of the time in which data are made, the GPU being waited for after every part."""
    step = _step(device, size, 3, 32)
    waited = worked = 0.0
    _finish(device)
    started = time.perf_counter()
    for number, volume in enumerate(_batches(module, device, num_epochs)):
        _finish(device)
        there = time.perf_counter()
        step(volume)
        _finish(device)
        done = time.perf_counter()
        if number:  # the first step compiles and allocates
            waited, worked = waited + there - started, worked + done - there
        started = done
    return waited / (waited + worked)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
