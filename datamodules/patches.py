"""Random 3D patches of a cohort, cut straight out of the cached volumes."""

import logging
from copy import copy
from dataclasses import asdict
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from datamodules.augmentation import draw_seed
from datamodules.batches.epoch_sampler import Batch, batch_loader
from datamodules.cache.device_storage import Stored, device_storage, volume_tensor, windows
from datamodules.checks.cohort_problems import Expectations
from datamodules.cohort import Cohort
from datamodules.preprocessing import Preprocessing, Shape
from datamodules.reading.cohort_table import Columns
from datamodules.splits import fold_runs, hold_out, patients_of, read_splits
from datamodules.volumes import Intensity

logger = logging.getLogger(__name__)


class PatchBatch(TypedDict):
    """A batch of patches; volume: (B, 1, W, H, D)."""

    volume: Tensor


class PatchDataModule(LightningDataModule):
    """Serve patches of a cohort, labelled or not, for pretraining (MCTL §3.4).

    Args:
        table: Path of the cohort table.
        columns: Names of its columns.
        preprocessing: What is done once to every scan.
        patch_shape: Voxels of a patch along R, A, S (MCTL: 25, 25, 4); less along axes where the
            volumes have less.
        patches_per_volume: Patches drawn from each volume, spread evenly over the epochs
            (MCTL: 20,000).
        val_fraction: Share of the patients whose patches choose the checkpoint.
        val_patches_per_volume: Patches of each validation volume, the same at every epoch.
        splits_path: A splits.csv or a run that has one: only the training patients of its
            `repeat` and `fold` are used, so that each fold can have an encoder of its own.
        repeat: Repeat of `splits_path`.
        fold: Fold of `splits_path`.
        batch_size: Patches of a batch on one device.
        num_workers: Worker processes of the training loader; cutting patches needs none.
        seed: Seed of the validation patients and of the patches.
        cache_dir: Folder for preprocessed volumes; may be deleted at any time.
    """

    def __init__(
        self,
        table: str | None = None,
        columns: Columns = Columns(),
        preprocessing: Preprocessing = Preprocessing(),
        patch_shape: Shape = (24, 24, 16),  # every weight of three convolutions gets a gradient
        patches_per_volume: int = 1000,
        val_fraction: float = 0.1,
        val_patches_per_volume: int = 200,
        splits_path: str | None = None,
        repeat: int = 0,
        fold: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "cache",
    ) -> None:
        super().__init__()
        self.cohort = Cohort(table, columns, preprocessing, cache_dir)
        self.wanted_patch_shape = patch_shape
        self.patches_per_volume = patches_per_volume
        self.val_fraction = val_fraction
        self.val_patches_per_volume = val_patches_per_volume
        self.splits_path = splits_path
        self.repeat = repeat
        self.fold = fold
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.intensity: Intensity | None = None

    def with_fold(self, repeat: int, fold: int) -> "PatchDataModule":
        """Serve patches for another fold of the same cohort; nothing is read or checked again."""
        other = copy(self)
        other.repeat, other.fold, other.trainer, other.intensity = repeat, fold, None, None
        vars(other).pop("training_scans", None)
        return other

    def fold_runs(self) -> list[tuple[int, int]]:
        """The (repeat, fold) pairs to pretrain for: all of the splits, or just one."""
        return [(0, 0)] if self.splits_path is None else fold_runs(read_splits(self.splits_path))

    @property
    def patch_shape(self) -> Shape:
        """Voxels of a patch along R, A, S."""
        width, height, depth = map(min, self.wanted_patch_shape, self._volume_shape)
        return width, height, depth

    @property
    def _volume_shape(self) -> Shape:
        if self.cohort.preprocessing.spatial_shape is None:
            self.cohort.plan()
        assert self.cohort.preprocessing.spatial_shape is not None
        return self.cohort.preprocessing.spatial_shape

    def facts(self) -> dict[str, Any]:
        """What a model may need to know of the data: the shapes of a patch and of a volume."""
        return {"spatial_shape": self.patch_shape, "volume_shape": self._volume_shape}

    @property
    def expectations(self) -> Expectations:
        """What the cohort's check has to look at: labels are not needed."""
        return Expectations(labelled=False)

    @property
    def training_patients(self) -> set[str]:
        """Patients whose patches are used, those that choose the checkpoint included."""
        patients = set(self.cohort.patients)
        if self.splits_path is None:
            return patients
        parts = patients_of(read_splits(self.splits_path), self.repeat, self.fold)
        if not patients & parts["train"]:
            raise ValueError(
                f"No patient of {self.cohort.table} is a training patient of repeat "
                f"{self.repeat}, fold {self.fold} in {self.splits_path}. "
                "Use splits of the same patients."
            )
        return patients & parts["train"]

    @cached_property
    def training_scans(self) -> dict[str, Tensor]:
        """By what the scans of `training_patients` are recognised, for the checkpoint."""
        return self.cohort.describe_scans(self.training_patients)

    @property
    def held_out_patients(self) -> set[str]:
        """Nobody: no figure is reported of patients that choose the checkpoint."""
        return set()

    def fill_cache(self) -> None:
        """Preprocess what the cache lacks."""
        assert len(self.cohort.volumes.data)

    @override
    def prepare_data(self) -> None:
        self.fill_cache()

    @override
    def setup(self, stage: str) -> None:
        volumes = self.cohort.volumes
        patch_shape = self.patch_shape
        if patch_shape != tuple(self.wanted_patch_shape):
            logger.info("Patches have %d × %d × %d voxels: the volumes have no more.", *patch_shape)
        rows = np.array(self.cohort.rows_of(self.training_patients))
        patients = [self.cohort.patients[row] for row in rows]
        seed = draw_seed(self.seed, self.repeat, self.fold)
        val = hold_out(patients, [""] * len(patients), self.val_fraction, seed)
        train_rows, val_rows = np.delete(rows, val), np.intersect1d(rows[val], self.cohort.real)
        if stage == "fit":
            self.intensity = self.cohort.fit_intensity(train_rows)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        stored = device_storage(volumes.data, device, self.num_workers)
        self.train_patches = PatchBatches(stored, train_rows, patch_shape, seed)
        self.val_patches = PatchBatches(stored, val_rows, patch_shape, seed + 1)

    @override
    def train_dataloader(self) -> DataLoader:
        max_epochs = getattr(self.trainer, "max_epochs", None) or 1
        num_patches = len(self.train_patches.rows) * self.patches_per_volume // max(max_epochs, 1)
        return batch_loader(
            self.train_patches,
            np.arange(max(num_patches, 1)),
            self.batch_size,
            self.trainer,
            num_workers=self.num_workers,
            seed=self.seed,
        )

    @override
    def val_dataloader(self) -> DataLoader:
        numbers = np.arange(len(self.val_patches.rows) * self.val_patches_per_volume)
        return batch_loader(self.val_patches, numbers, self.batch_size, self.trainer)

    @override
    def on_after_batch_transfer(self, batch: PatchBatch, dataloader_idx: int) -> PatchBatch:
        assert self.intensity is not None, "the intensity scale comes from fit or a checkpoint"
        return {"volume": self.intensity.scale(batch["volume"])}

    @override
    def state_dict(self) -> dict[str, Any]:
        assert self.intensity is not None
        return {
            "preprocessing": asdict(self.cohort.preprocessing),
            "voxel_mm": self.cohort.voxel_mm,
            "intensity": asdict(self.intensity),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.cohort.refuse_other_preprocessing(state_dict["preprocessing"])
        self.intensity = Intensity.of(state_dict["intensity"])


class PatchBatches(Dataset[PatchBatch]):
    """Batches of patches by (epoch, numbers): where they are cut depends on nothing else.

    Args:
        stored: The cached volumes, last axis first, (N, 1, D, W, H).
        rows: Rows to cut from, (N,).
        patch_shape: Voxels of a patch along R, A, S.
        seed: Seed of the places.
    """

    def __init__(self, stored: Stored, rows: np.ndarray, patch_shape: Shape, seed: int) -> None:
        width, height, depth = patch_shape
        self.windows = windows(stored, (depth, width, height))
        self.rows = rows
        self.seed = seed

    @property
    def on_device(self) -> bool:
        """Whether batches are made on a GPU and need no transfer."""
        return isinstance(self.windows, Tensor)

    @override
    def __getitem__(self, index: Batch) -> PatchBatch:
        epoch, numbers, _ = index
        generator = np.random.default_rng((self.seed, epoch, int(numbers[0])))
        rows = np.resize(generator.permutation(self.rows), len(numbers))  # few of one volume
        d, w, h = generator.integers(self.windows.shape[1:4], size=(len(numbers), 3)).T
        patches = self.windows[rows, d, w, h][:, None]
        return {"volume": volume_tensor(patches)}  # float16 (B, 1, W, H, D)
