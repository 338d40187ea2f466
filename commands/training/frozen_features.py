"""What a frozen encoder makes of every version of every scan, computed once and kept."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from callbacks.distributed import step_seed
from commands.runs.command_line import CommandLine, fold_seed
from commands.runs.run_folder import init_checkpoint
from datamodules.batches.epoch_sampler import EpochSampler
from datamodules.cache.residence import volume_tensor
from datamodules.cache.row_cache import cached_rows
from datamodules.scans import ScanDataModule
from datamodules.volumes import Intensity
from files.hashes import digest
from lightning_modules.classifier import Classifier
from lightning_modules.imagenet_baseline import ImageNetBaseline
from lightning_modules.stacked_heads import StackedBatch
from lightning_modules.transfer import read_checkpoint

BATCH_SIZE = 16
Scale = Literal["init", "fold"]


@dataclass(frozen=True)
class FrozenFold:
    """One fold of one repeat as the encoder sees it.

    Args:
        data: The fold's scans and parts.
        seed: Seed of everything random in its training.
        features: Outputs of the encoder, float16 of shape (N, 1 + V, F): of each scan as it is,
            then of its V augmented versions.
        device: Where the heads are trained.
    """

    data: ScanDataModule
    seed: int
    features: np.memmap
    device: torch.device

    @property
    def sampler(self) -> EpochSampler:
        """The order of the training scans, as fine-tuning has it."""
        sampler = self.data.train_dataloader().sampler
        assert isinstance(sampler, EpochSampler)
        return sampler

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Training features of an epoch in the order of its batches, (N_train, F), and labels."""
        sampler = self.sampler
        sampler.set_epoch(epoch)
        batches = list(sampler)
        rows = np.concatenate([batch.rows for batch in batches])
        versions = np.zeros_like(rows)
        if self.data.augmented.bank is not None:
            versions = 1 + np.concatenate(list(map(self.data.augmented.versions, batches)))
        return self.features[rows, versions], self.data.labels[rows]

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Features of the validation or test scans as they are, (N, F), and labels."""
        rows = self.data.rows[name]
        return self.features[rows, 0], self.data.labels[rows]


def open_fold(cli: CommandLine, repeat: int, fold: int, scale: Scale) -> FrozenFold:
    """Open one fold, sending its scans through its encoder unless the cache holds the outputs.

    Args:
        cli: The parsed command line.
        repeat: Repeat of the fold.
        fold: The fold.
        scale: Intensity scale: 'init' is what INIT was trained with, 'fold' is fitted on the
            fold's training scans.
    """
    init = cli.config.init
    checkpoint = str(init_checkpoint(init, repeat, fold)) if init else None
    trainer, model, data = cli.build(repeat, fold, checkpoint)
    assert isinstance(model, Classifier)
    assert isinstance(data, ScanDataModule)
    data.setup("fit")
    model.eval().load_start(data)
    intensity = data.intensity
    if scale == "init":
        assert checkpoint is not None
        intensity = _stored_intensity(checkpoint)
    assert intensity is not None
    seed = fold_seed(cli.config.seed_everything, repeat, fold)
    device = trainer.strategy.root_device
    return FrozenFold(data, seed, encoded_bank(model, data, intensity, device), device)


def encoded_bank(
    model: Classifier, data: ScanDataModule, intensity: Intensity, device: torch.device
) -> np.memmap:
    """Encode every scan and its augmented versions, or open what the cache holds.

    The outputs depend on the encoder, the intensity scale, the scans and the bank: folds that
    have the same of these share them.
    """
    volumes, bank = data.cohort.volumes, data.open_bank()  # as they are stored, on no device
    sources = [volumes.data, *([] if bank is None else [bank])]
    made_by = [Path(str(source.filename)).parent.name for source in sources]  # names of recipes
    shape = {name: model.hparams[name] for name in ("backbone", "pool", "norm")}
    recipe = digest("features", weights_hash(model.encoder), shape, asdict(intensity), made_by)
    num_versions = 1 + (0 if bank is None else bank.shape[1])
    model = model.to(device)
    with torch.no_grad():
        num_features = model.features(
            volume_tensor(volumes.data[:1].copy()).to(device).float()
        ).shape[1]

    def build_row(position: int) -> tuple[np.ndarray, dict]:
        versions = [volumes.data[position][None], *([] if bank is None else [bank[position]])]
        features = encode(model, intensity, np.concatenate(versions), device)
        if not np.isfinite(features.astype(np.float16)).all():
            raise ValueError(
                f"The encoder's outputs on {data.cohort.scans[position].image} leave the range of "
                "float16. Give another INIT, or pretrain with --model.norm=instance."
            )
        return features, {}

    features, _ = cached_rows(
        data.cohort.cache_dir / f"features-{recipe}",
        volumes.keys,
        (num_versions, num_features),
        build_row,
        what="encoder outputs",
    )
    return features


@torch.no_grad()
def encode(
    model: Classifier | ImageNetBaseline,
    intensity: Intensity,
    stored: np.ndarray,
    device: torch.device,
) -> np.ndarray:
    """What the model's encoder makes of stored volumes, (N, F).

    Args:
        model: In evaluation mode.
        intensity: The intensity scale.
        stored: Volumes as the cache has them, (N, 1, D, W, H).
        device: Where the model is.
    """
    outputs = []
    for start in range(0, len(stored), BATCH_SIZE):
        volume = volume_tensor(stored[start : start + BATCH_SIZE].copy()).to(device)
        outputs.append(model.features(intensity.scale(volume)).cpu())
    return torch.cat(outputs).numpy()


def weights_hash(module: nn.Module) -> str:
    """Hash weights and buffers, by name."""
    content = hashlib.sha256()
    for name, value in module.state_dict().items():
        content.update(f"{name} {tuple(value.shape)} ".encode())
        content.update(value.cpu().numpy().tobytes())
    return content.hexdigest()


def training_batches(folds: Sequence[FrozenFold], epoch: int) -> Iterator[StackedBatch]:
    """Serve an epoch: to each fold the batches that fine-tuning would give it.

    Args:
        folds: Folds with equally many batches.
        epoch: The epoch.
    """
    whole = _side_by_side([fold.epoch(epoch) for fold in folds], folds[0].device)
    size = folds[0].data.batch_size
    for step, start in enumerate(range(0, whole.labels.shape[1], size)):
        yield StackedBatch(
            whole.features[:, start : start + size],
            whole.labels[:, start : start + size],
            (whole.sizes - start).clamp(max=size),
            [step_seed(fold.seed, epoch, step) for fold in folds],
        )


def part_batch(folds: Sequence[FrozenFold], part: str) -> StackedBatch:
    """Serve the validation or test scans of each fold as one batch."""
    return _side_by_side([fold.part(part) for fold in folds], folds[0].device)


def _side_by_side(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device
) -> StackedBatch:
    sizes = torch.tensor([len(labels) for _, labels in parts])
    width = parts[0][0].shape[1]
    features = torch.zeros(len(parts), int(sizes.max()), width)
    stacked_labels = torch.zeros(features.shape[:2], dtype=torch.long)
    for row, (outputs, labels) in enumerate(parts):
        features[row, : len(labels)] = torch.from_numpy(outputs)
        stacked_labels[row, : len(labels)] = torch.from_numpy(labels)
    return StackedBatch(features.to(device), stacked_labels.to(device), sizes.to(device))


def _stored_intensity(checkpoint_path: str) -> Intensity:
    for state in read_checkpoint(checkpoint_path).values():
        if isinstance(state, Mapping) and "intensity" in state:
            return Intensity(**state["intensity"])
    raise ValueError(f"Checkpoint {checkpoint_path} has no intensity scale: say --scale=fold.")
