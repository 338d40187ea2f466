"""The bank: a fixed number of augmented versions of every scan, made once (MCTL §4.2)."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from datamodules.augmentation import Augmentation, draw_seed
from datamodules.changes import make_copies
from datamodules.residence import volume_tensor
from datamodules.row_cache import cached_rows, digest
from datamodules.volumes import Volumes

BANK_VERSION = 2  # of what a version is; raise it when versions change


def load_bank(
    volumes: Volumes, augmentation: Augmentation, seed: int, cache_dir: Path
) -> np.memmap:
    """Open the bank of augmented versions, building what the cache does not hold yet.

    A version depends on the scan's content, the settings and the seed alone: all folds share it.

    Returns:
        Memmap, float16 of shape (N, num_versions, 1, D, W, H).
    """
    recipe = digest("bank", BANK_VERSION, volumes.recipe, asdict(augmentation), seed)

    def build_row(position: int) -> tuple[np.ndarray, dict]:
        num_versions = augmentation.num_versions
        scan_seed = int(volumes.keys[position][:12], 16)
        seeds = [draw_seed(seed, scan_seed, version) for version in range(num_versions)]
        volume = volume_tensor(volumes.data[[position] * num_versions])
        spacings_mm = volumes.spacings_mm[[position] * num_versions]
        return np.moveaxis(make_copies(volume, spacings_mm, augmentation, seeds).numpy(), -1, 2), {}

    shape = (augmentation.num_versions, *volumes.data.shape[1:])
    bank, _ = cached_rows(
        cache_dir / f"bank-{recipe}", volumes.keys, shape, build_row, what="augmented versions"
    )
    return bank
