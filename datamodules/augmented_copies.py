"""A fixed number of augmented copies of every scan, made once (MCTL §4.2)."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.augmentation import Augmentation, draw_seed
from datamodules.batches.workers import usable_cores
from datamodules.cache.device_storage import volume_tensor
from datamodules.cache.row_cache import Facts, cached_rows
from datamodules.changes import make_copies
from datamodules.volumes import Volumes
from files.hashes import digest

VERSION = 4  # of what a copy is; raise it when copies change


def load_copies(
    volumes: Volumes, augmentation: Augmentation, seed: int, cache_dir: Path
) -> np.memmap:
    """Open the augmented copies of all scans, building what the cache does not hold yet.

    Copy 0 is the scan as it is, so that training sees what validation and test see. Another
    copy depends on the scan's content, the settings and the seed alone: all folds share it.

    Returns:
        Memmap, float16 of shape (N, num_versions, C, D, W, H).
    """
    recipe = digest("copies", VERSION, volumes.recipe, asdict(augmentation), seed)

    build_row = partial(
        _build_row,
        str(volumes.data.filename),
        volumes.keys,
        volumes.spacings_mm,
        augmentation,
        seed,
    )
    copies, _ = cached_rows(
        cache_dir / f"copies-{recipe}",
        volumes.keys,
        (augmentation.num_versions, *volumes.data.shape[1:]),
        build_row,
        what="augmented copies",
        num_workers=usable_cores() if augmentation.by_torchio else 1,  # else threads do it
    )
    return copies


def _build_row(
    volumes_path: str,
    keys: Sequence[str],
    spacings_mm: np.ndarray,
    augmentation: Augmentation,
    seed: int,
    position: int,
) -> tuple[np.ndarray, Facts]:
    """All copies of one scan."""
    num_versions = augmentation.num_versions
    scan_seed = int(keys[position][:12], 16)
    seeds = [draw_seed(seed, scan_seed, version) for version in range(num_versions)]
    stored = np.array(np.load(volumes_path, mmap_mode="r", allow_pickle=False)[position])
    volume = volume_tensor(stored).expand(num_versions, -1, -1, -1, -1)
    spacings_mm = np.tile(spacings_mm[position], (num_versions, 1))
    copies = make_copies(volume, spacings_mm, augmentation, seeds)
    copies[0] = volume[0]
    return np.moveaxis(copies.numpy(), -1, 2), {}
