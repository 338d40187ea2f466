"""What a checkpoint keeps of the scans that its weights have seen, and the search for them.

Two descriptors are kept of each scan, 3 kB in all. The fingerprint finds the same voxels in any
orientation. The pattern finds altered copies: one bit for each low frequency of the scan's fine
detail, whether its magnitude is above the average of its neighbours. No shift changes a magnitude,
and brightness and contrast hardly change which ones stand out. There are no phases in it, so that
no picture can be made of it.

Measured: patterns of different people agree up to 0.44 in four real cohorts, up to 0.74 among the
demo's synthetic brains. Copies that lost one slice, got one row more, went through a gamma of 0.8
or 1.3, were brightened, or resampled to 0.8 or 1.3 of the voxels along an axis, keep at least 0.79.
Not found for sure: copies that lost a tenth of every axis or were resampled to half (0.4 to 0.8).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from datamodules.checks.leakage import Signature, known_scans, voxel_fingerprints
from datamodules.checks.likeness import DETAIL, KeptPicture, along_axes, smoothing

NUM_FREQUENCIES = 13  # along each half axis
PERIOD = 60  # steps of the lowest frequency
NEIGHBOURS = 2.0  # standard deviation, in frequencies, of the local average
AGREEMENT, LOWEST_AGREEMENT = 0.77, 0.68
ENOUGH_SCANS, MANY_SCANS = 20, 200  # to know how much different scans agree
SHAPE = (2 * NUM_FREQUENCIES - 1, 2 * NUM_FREQUENCIES - 1, NUM_FREQUENCIES)
NUM_BITS = SHAPE[0] * SHAPE[1] * SHAPE[2]
ROWS_AT_ONCE = 512
SeenScans = Mapping[
    str, Tensor
]  # of one training: fingerprints (N, 515), patterns (N, 1016), step_mm ()


def describe_scans(signatures: Sequence[Signature]) -> dict[str, Tensor]:
    """Reduce scans to what a checkpoint keeps of them.

    Returns:
        `fingerprints`, float32 (N, 515); `patterns`, one bit for each frequency, uint8 (N, 1016);
        `step_mm`, the unit of their frequencies.
    """
    step_mm = _common_step_mm(signatures)
    return {
        "fingerprints": torch.from_numpy(voxel_fingerprints(signatures)),
        "patterns": torch.from_numpy(_patterns(signatures, step_mm)),
        "step_mm": torch.tensor(step_mm),
    }


def find_seen(seen: SeenScans, signatures: Sequence[Signature]) -> list[int]:
    """Find scans that are, perhaps altered, among those that a checkpoint has seen.

    Args:
        seen: What `describe_scans` made of the scans of one training. Checkpoints of older
            versions have fingerprints alone, under the name `marks`, which find the same voxels
            only.
        signatures: Signature of each scan that must not be among them.

    Returns:
        Positions of the signatures.
    """
    fingerprints = seen["fingerprints" if "fingerprints" in seen else "marks"]
    found = {position for _, position in known_scans(fingerprints.numpy(), signatures)}
    if "patterns" in seen and signatures:
        known = seen["patterns"].numpy()
        wanted = _wanted_agreement(known)
        for signs in _mirrored(_signs(_patterns(signatures, float(seen["step_mm"])))):
            found |= set(np.flatnonzero(_best_agreement(signs, known) >= wanted))
    return sorted(int(position) for position in found)


def pattern(thumbnail: np.ndarray, size_mm: Sequence[float], step_mm: float) -> np.ndarray:
    """Choose the low frequencies of a thumbnail's fine detail that stand out.

    Args:
        thumbnail: The scan in RAS, uint8.
        size_mm: Its voxel size.
        step_mm: Unit of the frequencies: they are multiples of 1 / (60 `step_mm`).

    Returns:
        Bools, (25, 25, 13).
    """
    picture = thumbnail.astype(np.float32) / 255
    axes = list(zip(picture.shape, (float(size) for size in size_mm), strict=True))
    smooth = along_axes(picture, [smoothing(n, DETAIL * step_mm / mm) for n, mm in axes])
    waves = [_waves(n, mm / step_mm, axis < 2) for axis, (n, mm) in enumerate(axes)]
    sizes = np.abs(along_axes(picture - smooth, waves))
    ratio = sizes / (ndimage.gaussian_filter(sizes, NEIGHBOURS, mode="nearest") + 1e-12)
    return ratio > np.median(ratio)


def _common_step_mm(signatures: Sequence[Signature]) -> float:
    """Size of a thumbnail's voxels, in quarters of an octave: the same for all folds."""
    if not signatures:
        return 1.0
    sizes = [float(np.mean(np.log2(signature.thumbnail_mm))) for signature in signatures]
    return float(2 ** (np.rint(4 * np.median(sizes)) / 4))


def _patterns(signatures: Sequence[Signature], step_mm: float) -> np.ndarray:
    """Pattern of each scan, packed, (N, 1016)."""
    packed = np.empty((len(signatures), -(-NUM_BITS // 8)), np.uint8)
    for row, signature in zip(packed, signatures, strict=True):
        picture, size_mm = signature.thumbnail, signature.thumbnail_mm
        if isinstance(picture, KeptPicture):
            row[:] = _kept_pattern(picture, size_mm, step_mm)
        else:
            row[:] = np.packbits(pattern(picture, size_mm, step_mm))
    return packed


@lru_cache(maxsize=8192)  # every fold asks for them
def _kept_pattern(
    picture: KeptPicture, size_mm: tuple[float, float, float], step_mm: float
) -> np.ndarray:
    return np.packbits(pattern(np.asarray(picture), size_mm, step_mm))


def _signs(patterns: np.ndarray) -> np.ndarray:
    """Packed patterns as 1 and -1, (N, 25, 25, 13)."""
    bits = np.unpackbits(patterns, axis=1, count=NUM_BITS).astype(np.float32)
    return (2 * bits - 1).reshape(-1, *SHAPE)


def _mirrored(signs: np.ndarray) -> Iterator[np.ndarray]:
    """The patterns of a scan and of its mirror images, (N, 8125); of opposite ones they agree."""
    for first in (1, -1):
        for second in (1, -1):
            yield signs[:, ::first, ::second].reshape(len(signs), -1)


def _best_agreement(signs: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Highest agreement of each row with a seen pattern: 1 is equal, 0 by chance."""
    best = np.full(len(signs), -1.0)
    for start in range(0, len(seen), ROWS_AT_ONCE):
        others = _signs(seen[start : start + ROWS_AT_ONCE]).reshape(-1, NUM_BITS)
        best = np.maximum(best, (signs @ others.T).max(axis=1) / NUM_BITS)
    return best


def _wanted_agreement(seen: np.ndarray) -> float:
    """Halfway from the highest agreement of two seen scans to 1, within what was measured."""
    if len(seen) < ENOUGH_SCANS:
        return AGREEMENT
    signs = _signs(seen[:MANY_SCANS]).reshape(-1, NUM_BITS)
    agreement = signs @ signs.T / NUM_BITS
    highest = float(agreement[np.triu_indices(len(signs), 1)].max())
    return float(np.clip((1 + highest) / 2, LOWEST_AGREEMENT, AGREEMENT))


@lru_cache(maxsize=256)
def _waves(size: int, voxel: float, both_signs: bool) -> np.ndarray:
    """From voxels along an axis to their low frequencies, as a matrix; `voxel` is in steps."""
    places = (np.arange(size) - (size - 1) / 2) * voxel
    frequencies = np.arange(1 - NUM_FREQUENCIES if both_signs else 0, NUM_FREQUENCIES)
    turns = np.outer(frequencies, places) / PERIOD
    return np.exp(-2j * np.pi * turns).astype(np.complex64)
