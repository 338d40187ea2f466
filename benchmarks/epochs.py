"""An epoch of training as a whole: ours next to the loop of MONAI's 3D classification tutorial."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from monai import data as monai_data
from monai import transforms as monai_transforms
from torch import nn

from benchmarks.cohort import write_cohort
from benchmarks.data_path import BATCH_SIZE, DEGREES, NUM_WORKERS, SHIFT, open_scans
from benchmarks.rounds import table, take_turns
from benchmarks.training_step import leave_layers_apart
from datamodules.augmentation import Augmentation
from lightning_modules.classifier import Classifier

REFERENCE = "MONAI's tutorial, 2 workers"


def measure(
    folder: Path, until: float, *, size: int, num_scans: int, num_rounds: int
) -> Iterator[str]:
    """Compare epochs of the same network on the same scans; give lines of Markdown."""
    cohort = write_cohort(folder / f"cubes{size}", num_scans, size)
    changes: dict[str, Any] = {"degrees": DEGREES, "translation_mm": SHIFT}
    ways = {
        REFERENCE: _tutorial(cohort, size),
        "ours, fresh copies": _ours(cohort, size, Augmentation("fresh", **changes)),
        "ours, augmented copies": _ours(cohort, size, Augmentation(num_versions=4, **changes)),
    }
    rates = take_turns(ways, num_rounds, until)
    yield (
        f"An epoch of training: {num_scans} volumes of {size}³, rotated and shifted, the "
        f"classifier with its defaults, batches of {BATCH_SIZE}. The tutorial's loop "
        "(`ImageDataset`, `DataLoader`, the loss read after every step) has our network, in layers "
        "of torch, and our augmentation in the place of its own; ours is `Trainer.fit` with all "
        "that it sets up."
    )
    yield ""
    yield from table(rates, "scans/s", REFERENCE)


def _ours(cohort: Path, size: int, augmentation: Augmentation) -> Callable[[], int]:
    module = open_scans(cohort, size, augmentation)
    rows = module.rows["train"]

    def epoch() -> int:
        model = Classifier(2, (size, size, size))
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        module.setup = lambda stage: None  # type: ignore[method-assign]
        model.setup = lambda stage: None  # type: ignore[method-assign]
        trainer.fit(model, module)
        return len(rows)

    return epoch


def _tutorial(cohort: Path, size: int) -> Callable[[], int]:
    images = sorted(map(str, cohort.parent.glob("*.nii.gz")))
    labels = [number % 2 for number in range(len(images))]
    augment = monai_transforms.RandAffine(
        prob=1.0,
        rotate_range=[np.radians(DEGREES)] * 3,
        translate_range=[SHIFT] * 3,
        padding_mode="border",
    )
    steps = [monai_transforms.ScaleIntensity(), monai_transforms.EnsureChannelFirst(), augment]
    dataset = monai_data.ImageDataset(
        image_files=images, labels=labels, transform=monai_transforms.Compose(steps)
    )
    loader = monai_data.DataLoader(
        dataset,
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=NUM_WORKERS,
        persistent_workers=True,
    )
    model = Classifier(2, (size, size, size))
    leave_layers_apart(model)
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def epoch() -> int:
        model.train()
        epoch_loss = 0.0
        for inputs, wanted in loader:
            optimizer.zero_grad()
            loss = loss_function(model(inputs.as_tensor()), wanted)
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item()
        return len(images)

    return epoch
