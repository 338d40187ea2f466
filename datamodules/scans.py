"""Whole volumes with their labels, divided by patient, augmented while training."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.augmentation import Augmentation, draw_seed
from datamodules.augmented_copies import load_copies
from datamodules.batches.epoch_sampler import Batch, batch_loader
from datamodules.cache.device_storage import device_storage
from datamodules.changes import apply_changes
from datamodules.checks.cohort_problems import Expectations, Task
from datamodules.cohort import Cohort
from datamodules.covariates import Coding, fit_coding
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Columns
from datamodules.scan_batches import ScanBatch, ScanBatches
from datamodules.splits import Splits, fold_runs, make_splits, patients_of
from datamodules.splits_check import given_splits, split_warnings
from datamodules.target import TargetScale
from datamodules.truth import truth_of
from datamodules.volumes import Intensity

PLAIN_BATCH = 32  # training scans that are looked at together, without augmentation


class ScanDataModule(LightningDataModule):
    """Serve one fold of a labelled cohort.

    One object serves a whole run: `with_fold` gives a copy for another fold, which shares the
    checked cohort, its cached volumes and the splits with the first.

    Args:
        table: Path of the cohort table.
        columns: Names of its columns.
        classes: Order of the classes, of two the positive one last; None sorts them by name.
        preprocessing: What is done once to every scan.
        augmentation: What may change in a training scan.
        splits: How patients are divided.
        repeat: Which repeat of the division to serve.
        fold: Which fold of that repeat to serve.
        batch_size: Scans of a batch on one device.
        num_workers: Worker processes of the training loader; small cohorts need none.
        cache_dir: Folder for preprocessed volumes; may be deleted at any time.
        sampling: 'natural' serves every training scan once an epoch; 'balanced' as many, equally
            many of each class: a rare class's several times, each in another augmented copy while
            there are some left, a frequent class's not all in each epoch. Validation and test
            stay as they are.
        labels_per: 'scan' if a patient's scans may have different labels, as two halves of a brain
            have; otherwise that is taken for a mistake in the table.
        contrasts: Names of the contrasts, where a row has several images in the columns
            image_<contrast>; each is a channel of the volume, on the grid of the first.
        covariates: Columns of the table that the model sees next to the images, such as age and
            sex; numbers are imputed and scaled, categories coded, on the fold's training scans.
        task: 'regression' predicts the number in the column `target` instead of a class.
    """

    def __init__(
        self,
        table: str | None = None,
        columns: Columns = Columns(),
        classes: list[str] | None = None,
        preprocessing: Preprocessing = Preprocessing(),
        augmentation: Augmentation = Augmentation(),
        splits: Splits = Splits(),
        repeat: int = 0,
        fold: int = 0,
        batch_size: int = 8,
        num_workers: int = 0,
        cache_dir: str = "cache",
        sampling: Literal["natural", "balanced"] = "natural",
        labels_per: Literal["patient", "scan"] = "patient",
        contrasts: list[str] | None = None,
        covariates: list[str] | None = None,
        task: Task = "classification",
    ) -> None:
        super().__init__()
        self.cohort = Cohort(
            table, columns, preprocessing, cache_dir, contrasts or (), covariates or (), task
        )
        self.truth = truth_of(self.cohort, classes, labels_per, sampling)
        self.augmentation = augmentation
        self.splits = splits
        self.repeat, self.fold = repeat, fold
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.sampling = sampling
        self.labels_per = labels_per
        self.intensity: Intensity | None = None
        self.coding: Coding | None = None
        self.target_scale: TargetScale | None = None  # of a regression

    def with_fold(self, repeat: int, fold: int) -> "ScanDataModule":
        """Serve another fold of the same cohort; nothing is read, checked or divided again."""
        assert len(self.splits_table)  # the copy shares what is known by now
        other = copy(self)
        other.repeat, other.fold, other.trainer = repeat, fold, None
        other.intensity = other.coding = other.target_scale = None
        vars(other).pop("training_scans", None)
        return other

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes in the order of the model's outputs; none of a regression."""
        return self.truth.names

    @property
    def expectations(self) -> Expectations:
        """What the cohort's check has to look at."""
        return self.truth.expectations

    @cached_property
    def splits_table(self) -> pd.DataFrame:
        """All folds of all repeats, drawn from the seed or read from `splits.path`."""
        real, cohort = self.cohort.of_real, self.cohort
        patients, sites = real(cohort.patients), real([scan.site for scan in cohort.scans])
        if self.splits.path is not None:
            return given_splits(self.splits, patients, str(cohort.table))
        return make_splits(patients, real(self.truth.strata(self.splits)), self.splits, sites)

    def split_warnings(self) -> list[str]:
        """What the division lacks, in one line each."""
        known = self.cohort.patients, self.truth.parts_need
        return split_warnings(self.splits_table, *map(self.cohort.of_real, known))

    def fold_runs(self) -> list[tuple[int, int]]:
        """All (repeat, fold) pairs of the division."""
        return fold_runs(self.splits_table)

    def facts(self) -> dict[str, Any]:
        """What a model may need to know of the cohort."""
        if self.cohort.preprocessing.spatial_shape is None:
            self.cohort.plan()
        return {
            "num_classes": self.truth.num_outputs,
            "spatial_shape": self.cohort.preprocessing.spatial_shape,
            "num_channels": self.cohort.num_channels,
            "num_covariates": len(self.cohort.covariates.columns),
        }

    @property
    def parts(self) -> dict[str, set[str]]:
        """The fold's patients: 'train', 'val' and 'test'."""
        return patients_of(self.splits_table, self.repeat, self.fold)

    @property
    def validates(self) -> bool:
        """Whether the fold has a validation part; the test part is one by protocol 'paper'."""
        return bool(self.parts["val"]) or self.splits.protocol == "paper"

    @property
    def training_patients(self) -> set[str]:
        """Patients that the fold's weights have seen, validation included."""
        return self.parts["train"] | self.parts["val"]

    @cached_property
    def training_scans(self) -> dict[str, Tensor]:
        """By what the scans of `training_patients` are recognised, for the checkpoint."""
        return self.cohort.describe_scans(self.training_patients)

    @property
    def held_out_patients(self) -> set[str]:
        """Patients that no pretrained encoder may have met: validation and test."""
        return self.parts["val"] | self.parts["test"]

    @property
    def training_label_counts(self) -> list[int]:
        """Training scans of each class, in the order of `class_names`."""
        labels = [self.cohort.labels[row] for row in self.cohort.rows_of(self.parts["train"])]
        return [labels.count(name) for name in self.class_names]

    @property
    def training_covariates(self) -> tuple[Tensor, Tensor]:
        """Scaled covariates, (N, P), and class index, (N,), of the training scans."""
        assert self.coding is not None
        rows = self.rows["train"]
        values = torch.from_numpy(self.cohort.covariates.values[rows])
        return self.coding.scale(values), torch.from_numpy(self.labels[rows])

    def fill_cache(self) -> None:
        """Preprocess what the cache lacks, and make the augmented copies."""
        self.open_copies()

    @override
    def prepare_data(self) -> None:
        self.fill_cache()

    @override
    def setup(self, stage: str) -> None:
        volumes = self.cohort.volumes
        self.rows = {
            part: np.array(self.cohort.rows_of(who, synthetic=part == "train"), dtype=int)
            for part, who in self.parts.items()
        }
        if self.validates and not len(self.rows["val"]):
            self.rows["val"] = self.rows["test"]
        if stage == "fit":
            self.intensity = self.cohort.fit_intensity(self.rows["train"])
            self.coding = fit_coding(self.cohort.covariates, self.rows["train"])
        self.target_scale, self.labels = self.truth.fit(self.rows["train"])
        self.seed = draw_seed(self.splits.seed, self.repeat, self.fold)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        stored = device_storage(volumes.data, device, self.num_workers)
        on_disk = self.open_copies() if stage == "fit" else None
        copies = None if on_disk is None else device_storage(on_disk, device, self.num_workers)
        known = volumes.spacings_mm, self.labels, self.cohort.covariates.values
        self.plain = ScanBatches(stored, *known, Augmentation(mode="none"), self.seed)
        self.augmented = ScanBatches(stored, *known, self.augmentation, self.seed, copies)

    def open_copies(self) -> np.memmap | None:
        """The augmented copies as they are stored; None in the other modes."""
        volumes = self.cohort.volumes
        if self.augmentation.mode != "copies":
            return None
        return load_copies(volumes, self.augmentation, self.splits.seed, self.cohort.cache_dir)

    @override
    def train_dataloader(self) -> DataLoader:
        rows = self.rows["train"]
        return batch_loader(
            self.augmented,
            rows,
            self.batch_size,
            self.trainer,
            num_workers=self.num_workers,
            seed=self.seed,
            classes=self.labels[rows] if self.sampling == "balanced" else None,
        )

    def plain_training_batches(self) -> Iterator[ScanBatch]:
        """Serve every training scan once, as it is, the same to every process."""
        rows = self.rows["train"]
        for part in np.array_split(rows, -(-len(rows) // PLAIN_BATCH)):
            yield self.plain[Batch(0, part, np.zeros_like(part))]

    @override
    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        if not self.validates:
            return []
        return batch_loader(self.plain, self.rows["val"], self.batch_size, self.trainer)

    @override
    def test_dataloader(self) -> DataLoader:
        return batch_loader(self.plain, self.rows["test"], self.batch_size, self.trainer)

    @override
    def predict_dataloader(self) -> DataLoader:
        """Serve the test part, then the validation part; no batch has scans of both."""
        untested = np.setdiff1d(self.rows["val"], self.rows["test"])  # none by protocol 'paper'
        val = batch_loader(self.plain, untested, self.batch_size, self.trainer)
        loader = self.test_dataloader()
        return DataLoader(
            self.plain,
            batch_size=None,
            sampler=[*loader.sampler, *val.sampler],
            pin_memory=loader.pin_memory,
        )

    @override
    def on_after_batch_transfer(self, batch: ScanBatch, dataloader_idx: int) -> ScanBatch:
        assert self.intensity is not None, "the scales come from fit or a checkpoint"
        assert self.coding is not None
        volume = batch["volume"]
        if "changes" in batch:
            volume = apply_changes(volume, batch.pop("changes"))
        return {
            **batch,
            "volume": self.intensity.scale(volume),
            "covariates": self.coding.scale(batch["covariates"]),
        }

    @override
    def state_dict(self) -> dict[str, Any]:
        assert self.intensity is not None
        assert self.coding is not None
        return self.truth.state(self.target_scale) | {
            "preprocessing": asdict(self.cohort.preprocessing),
            "voxel_mm": self.cohort.voxel_mm,
            "intensity": asdict(self.intensity),
            "contrasts": self.cohort.contrasts,
            "covariates": asdict(self.coding),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.target_scale = self.truth.restore(state_dict)
        self.cohort.refuse_other_preprocessing(state_dict["preprocessing"])
        self.cohort.refuse_other_inputs(state_dict)
        self.intensity = Intensity.of(state_dict["intensity"])
        self.coding = Coding.of(state_dict.get("covariates"))
