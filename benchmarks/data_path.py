"""How fast samples come: from our cache and our augmented copies, from TorchIO, from MONAI."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from monai import data as monai_data
from monai import transforms as monai_transforms

from benchmarks.cohort import as_it_is, write_cohort
from benchmarks.rounds import table, take_turns
from datamodules.augmentation import Augmentation, draw_seed
from datamodules.changes import draw_change
from datamodules.patches import PatchDataModule
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits
from datamodules.volumes import Intensity

DEGREES, SHIFT = 10.0, 5.0
BATCH_SIZE = 8
NUM_WORKERS = 2  # of the other libraries; ours works in the process that trains
PATCH = (25, 25, 4)
PATCHES_PER_VOLUME = 200
PATCH_BATCH = 256


def volumes(
    folder: Path, until: float, *, size: int, num_scans: int, num_rounds: int
) -> Iterator[str]:
    """Compare an epoch of rotated and shifted volumes; give lines of Markdown."""
    cohort = write_cohort(folder / f"cubes{size}", num_scans, size)
    fresh, deviation, intensity = _fresh(cohort, size)
    rates = take_turns(
        {
            "TorchIO from files, 2 workers": _torchio(cohort, intensity),
            "MONAI CacheDataset, 2 workers": _monai(cohort, intensity),
            "ours, fresh copies": fresh,
            "ours, augmented copies": _scans(
                cohort, size, Augmentation(num_versions=4), num_epochs=20
            ),
        },
        num_rounds,
        until,
    )
    yield (
        f"An epoch of {num_scans} volumes of {size}³, rotated by up to {DEGREES:g}° and shifted by "
        f"up to {SHIFT:g} mm, scaled to the training set's brightness (by the same function for "
        f"all), batches of {BATCH_SIZE}, float32. Fresh copies differ from those of `tio.Affine` "
        f"for the same parameters by at most {deviation:.1g} of the range. Ours are timed over "
        "several epochs, being short."
    )
    yield ""
    yield from table(rates, "volumes/s", "TorchIO from files, 2 workers")


def patches(
    folder: Path, until: float, *, size: int, num_scans: int, num_rounds: int
) -> Iterator[str]:
    """Compare patches of the volumes as they are; give lines of Markdown."""
    cohort = write_cohort(folder / f"cubes{size}", num_scans, size)
    ways = {"tio.Queue, 2 workers": _queue(cohort), "ours": _patches(cohort, size)}
    rates = take_turns(ways, num_rounds, until)
    shape = " × ".join(map(str, PATCH))
    yield f"Patches of {shape} out of {num_scans} volumes, batches of {PATCH_BATCH}:"
    yield ""
    yield from table(rates, "patches/s", "tio.Queue, 2 workers")


def open_scans(table: Path, size: int, augmentation: Augmentation) -> ScanDataModule:
    """Our datamodule with all but two scans in its training part, its cache built."""
    module = ScanDataModule(
        str(table),
        preprocessing=as_it_is(size),
        augmentation=augmentation,
        splits=Splits(num_folds=2, num_repeats=1),
        batch_size=BATCH_SIZE,
        cache_dir=str(table.parent / "cache"),
    )
    module.prepare_data()
    module.setup("fit")
    module.rows["train"] = np.arange(len(module.cohort.scans))
    return module


def _scans(
    table: Path, size: int, augmentation: Augmentation, num_epochs: int
) -> Callable[[], int]:
    """A turn of several epochs: one would be too short to be timed."""
    module = open_scans(table, size, augmentation)
    loader: Any = module.train_dataloader()
    epochs = iter(range(10**6))

    def epoch() -> int:
        loader.sampler.set_epoch(next(epochs))
        batches = (module.on_after_batch_transfer(batch, 0)["volume"] for batch in loader)
        return _count(batches, size)

    return lambda: sum(epoch() for _ in range(num_epochs))


def _fresh(table: Path, size: int) -> tuple[Callable[[], int], float, Intensity]:
    """Our epoch of fresh copies, how far a copy is from TorchIO's of the file, and the scale."""
    settings = Augmentation(mode="fresh", degrees=DEGREES, translation_mm=SHIFT)
    module = open_scans(table, size, settings)
    loader: Any = module.train_dataloader()
    batch = next(iter(loader))
    row = int(batch["row"][0])
    copy = module.on_after_batch_transfer(batch, 0)["volume"][0]
    image = tio.ScalarImage(module.cohort.scans[row].path)
    scale, degrees, shift, *_ = draw_change(settings, draw_seed(module.seed, 0, row))
    transform = tio.Affine((scale,) * 3, tuple(degrees), tuple(shift))
    expected = transform(tio.ScalarImage(tensor=image.data.float())).data
    assert module.intensity is not None
    deviation = (copy - module.intensity.scale(expected)).abs().max()
    return _scans(table, size, settings, num_epochs=5), float(deviation), module.intensity


def _torchio(table: Path, intensity: Intensity) -> Callable[[], int]:
    subjects = [tio.Subject(mri=tio.ScalarImage(path)) for path in _files(table)]
    transform = tio.RandomAffine(scales=0, degrees=DEGREES, translation=SHIFT)
    loader = tio.SubjectsLoader(
        tio.SubjectsDataset(subjects, transform=transform),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=NUM_WORKERS,
        persistent_workers=True,
    )
    return lambda: _count(intensity.scale(batch["mri"][tio.DATA]) for batch in loader)


def _monai(table: Path, intensity: Intensity) -> Callable[[], int]:
    transform = monai_transforms.Compose(
        [
            monai_transforms.LoadImaged(keys="image"),
            monai_transforms.EnsureChannelFirstd(keys="image"),
            monai_transforms.RandAffined(
                keys="image",
                prob=1.0,
                rotate_range=[np.radians(DEGREES)] * 3,
                translate_range=[SHIFT] * 3,
                mode="bilinear",
                padding_mode="border",
            ),
        ]
    )
    files = [{"image": str(path)} for path in _files(table)]
    loader = monai_data.DataLoader(
        monai_data.CacheDataset(files, transform, progress=False),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=NUM_WORKERS,
        persistent_workers=True,
    )
    return lambda: _count(intensity.scale(batch["image"].as_tensor()) for batch in loader)


def _queue(table: Path) -> Callable[[], int]:
    subjects = [tio.Subject(mri=tio.ScalarImage(path)) for path in _files(table)]
    queue = tio.Queue(
        tio.SubjectsDataset(subjects),
        max_length=8 * PATCHES_PER_VOLUME,
        samples_per_volume=PATCHES_PER_VOLUME,
        sampler=tio.UniformSampler(PATCH),
        num_workers=NUM_WORKERS,
    )
    loader = tio.SubjectsLoader(queue, batch_size=PATCH_BATCH)
    return lambda: _count(batch["mri"][tio.DATA].float() for batch in loader)


def _patches(table: Path, size: int) -> Callable[[], int]:
    module = PatchDataModule(
        str(table),
        preprocessing=as_it_is(size),
        patch_shape=PATCH,
        patches_per_volume=PATCHES_PER_VOLUME,
        val_fraction=0.1,
        batch_size=PATCH_BATCH,
        cache_dir=str(table.parent / "cache"),
    )
    module.setup("fit")
    loader: Any = module.train_dataloader()
    return lambda: _count(module.on_after_batch_transfer(batch, 0)["volume"] for batch in loader)


def _files(table: Path) -> list[Path]:
    return sorted(table.parent.glob("*.nii.gz"))


def _count(batches: Any, size: int | None = None) -> int:
    """Take all batches, see that they are what was asked for, and count what is in them."""
    number = 0
    for batch in batches:
        assert batch.dtype == torch.float32
        assert size is None or batch.shape[1:] == (1, size, size, size)
        number += len(batch)
    return number
