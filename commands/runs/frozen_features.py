"""The outputs of a fold's frozen encoder for every scan, computed once and kept in the cache."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datamodules.cache.device_storage import volume_tensor
from datamodules.cache.row_cache import cached_rows
from datamodules.scans import ScanDataModule
from datamodules.volumes import Intensity
from files.hashes import digest
from lightning_modules.scan_classifier import ScanClassifier


@torch.no_grad()
def encoder_features(
    model: ScanClassifier, data: ScanDataModule, device: torch.device
) -> np.ndarray:
    """Encode every scan on the fold's intensity scale, or open what the cache holds, (N, F).

    The outputs depend on the encoder, the intensity scale and the scans; folds that have the same
    of these share them.

    Args:
        model: The fold's network, its start not loaded yet.
        data: The fold's data, set up for training.
        device: Where the encoder runs.
    """
    model.load_start()
    volumes, intensity = data.cohort.volumes, data.intensity
    assert intensity is not None
    if model.has_own_scale:
        intensity = Intensity((0.0,) * len(intensity.mean), (1.0,) * len(intensity.mean))
    source = Path(str(volumes.data.filename)).parent.name  # the recipe of the volumes
    settings = [type(model).__name__, dict(model.hparams), asdict(intensity), source]
    recipe = digest("features", _weights_hash(model.encoder), settings)
    model.eval().to(device)

    def build_row(row: int) -> tuple[np.ndarray, dict]:
        volume = volume_tensor(volumes.data[row : row + 1].copy()).to(device)
        return model.features(intensity.scale(volume))[0].cpu().numpy(), {}

    features, _ = cached_rows(
        data.cohort.cache_dir / f"features-{recipe}",
        volumes.keys,
        build_row(0)[0].shape,
        build_row,
        what="encoder outputs",
        dtype=np.float32,
    )
    return features


def _weights_hash(module: nn.Module) -> str:
    """Hash weights and buffers, by name."""
    content = hashlib.sha256()
    for name, value in module.state_dict().items():
        content.update(f"{name} {tuple(value.shape)} ".encode())
        content.update(value.cpu().numpy().tobytes())
    return content.hexdigest()
