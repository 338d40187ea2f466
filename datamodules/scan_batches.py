"""Batches of scans by epoch, rows and turns: plain, augmented before, or to be augmented."""

from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.augmentation import Augmentation, draw_seed
from datamodules.batches.epoch_sampler import Batch
from datamodules.cache.device_storage import Stored, volume_tensor
from datamodules.changes import Changes, apply_torchio, draw_changes


class ScanBatch(TypedDict):
    """A batch of scans.

    volume: (B, C, W, H, D), a channel NaN where a scan lacks that contrast; covariates: (B, P);
    label: class index, or standardised target (B,); row: position in the cohort table (B,);
    changes: what is done to the volumes on the device, in mode 'fresh'.
    """

    volume: Tensor
    covariates: Tensor
    label: Tensor
    row: Tensor
    changes: NotRequired[Changes]


class ScanBatches(Dataset[ScanBatch]):
    """Batches by (epoch, rows, turns): which copy of a scan is served depends on nothing else.

    Args:
        stored: The cached volumes, last axis first, (N, C, D, W, H).
        spacings_mm: Voxel sizes in mm, (N, 3).
        labels: Class index or standardised target of each row, (N,).
        covariates: Coded covariates of each row, float32 (N, P).
        augmentation: What may change.
        seed: Seed of the choice of copies.
        copies: Augmented copies, (N, V, C, D, W, H), for mode 'copies'.
    """

    def __init__(
        self,
        stored: Stored,
        spacings_mm: np.ndarray,
        labels: np.ndarray,
        covariates: np.ndarray,
        augmentation: Augmentation,
        seed: int,
        copies: Stored | None = None,
    ) -> None:
        self.stored = stored
        self.spacings_mm = spacings_mm
        self.labels = torch.from_numpy(labels)
        self.covariates = torch.from_numpy(covariates)
        self.augmentation = augmentation
        self.seed = seed
        self.copies = copies
        self._versions = -1, np.empty(0, dtype=np.int64)  # first ones of the last epoch

    @property
    def on_device(self) -> bool:
        """Whether batches are made on a GPU and need no transfer."""
        return isinstance(self.stored if self.copies is None else self.copies, Tensor)

    @override
    def __getitem__(self, index: Batch) -> ScanBatch:
        epoch, rows, turns = index
        batch: ScanBatch = {
            "volume": self._volumes(index),  # float16 (B, C, W, H, D)
            "covariates": self.covariates[rows],
            "label": self.labels[rows],
            "row": torch.from_numpy(rows),
        }
        if self.augmentation.mode == "fresh":
            copies = (rows + turns * len(self.labels)).tolist()
            seeds = [draw_seed(self.seed, epoch, copy) for copy in copies]
            what = self.spacings_mm[rows], self.augmentation, seeds
            batch["volume"] = apply_torchio(batch["volume"], *what)
            batch["changes"] = draw_changes(*what, batch["volume"].shape[2:])
        return batch

    def versions(self, batch: Batch) -> np.ndarray:
        """Which augmented copy of each scan a batch serves, (B,).

        A scan that is served several times in an epoch comes in one copy after the other.
        """
        assert self.copies is not None
        num_versions = self.copies.shape[1]
        if self._versions[0] != batch.epoch:
            generator = np.random.default_rng((self.seed, batch.epoch))
            drawn = generator.integers(num_versions, size=len(self.copies))
            self._versions = batch.epoch, drawn
        return (self._versions[1][batch.rows] + batch.turns) % num_versions

    def _volumes(self, batch: Batch) -> Tensor:
        """The scans as they are, or an augmented copy of each."""
        if self.copies is None:
            return volume_tensor(self.stored[batch.rows])
        return volume_tensor(self.copies[batch.rows, self.versions(batch)])
