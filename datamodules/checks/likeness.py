"""How alike two scans are in their fine detail, which is as personal as a fingerprint.

Each thumbnail is compared with the one that is nearest to it among other patients' by the
magnitudes of its low frequencies, which no shift changes; that pair is then aligned and correlated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft, ndimage

from datamodules.batches.workers import in_order, usable_cores

DETAIL = 2.0  # voxels of the common size, above which is shape
THUMBNAIL_SIZE = 48  # voxels of the longest axis
BOX_SIZE = 72  # room for shifts
NUM_FREQUENCIES = 9
WORTH_COMPARING = 0.6
WORTH_REFINING = 0.4
LIKENESS = 0.83
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class KeptPicture:
    """An array in a file of the cache, read each time it is asked for: `np.asarray` does."""

    file: Path
    name: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with np.load(self.file, allow_pickle=False) as arrays:
            array = arrays[self.name]
        return array if dtype is None else array.astype(dtype, copy=False)


Picture = np.ndarray | KeptPicture


def like_pairs(
    pictures: Sequence[tuple[Picture, tuple[float, float, float]]], patients: Sequence[str]
) -> Iterator[tuple[int, int, float]]:
    """Find pictures of different patients whose fine detail agrees at the best shift.

    Args:
        pictures: Thumbnail in RAS, uint8, and its voxel size in mm, of each scan. Memory is
            needed for the spectra alone, 5 kB each.
        patients: Patient of each scan.

    Returns:
        Positions of both scans and their likeness, for each pair above the threshold.
    """
    if len(set(patients)) < 2:
        return
    extents = [max(np.multiply(np.asarray(image).shape, size_mm)) for image, size_mm in pictures]
    step_mm = float(np.median(extents)) / THUMBNAIL_SIZE
    spectra = np.empty(
        (len(pictures), (2 * NUM_FREQUENCIES - 1) ** 2 * NUM_FREQUENCIES), np.float16
    )
    for spectrum, (thumbnail, size_mm) in zip(spectra, pictures, strict=True):
        spectrum[:] = _spectrum(np.asarray(thumbnail), size_mm, step_mm)
    pairs = sorted(
        {
            (min(first, second), max(first, second))
            for first, second, alike in _nearest(spectra, patients)
            if alike >= WORTH_COMPARING
        }
    )
    compare = partial(_compare, pictures, pairs, step_mm)
    values = in_order(compare, range(len(pairs)), usable_cores())
    for (first, second), value in zip(pairs, values, strict=True):
        if value >= LIKENESS:
            yield first, second, value


def _compare(
    pictures: Sequence[tuple[Picture, tuple[float, float, float]]],
    pairs: Sequence[tuple[int, int]],
    step_mm: float,
    place: int,
) -> float:
    """Likeness of one of the pairs."""
    one, other = (_regrid(*pictures[position], step_mm) for position in pairs[place])
    return _likeness(one, other)


def _nearest(spectra: np.ndarray, patients: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """For each spectrum the one most like it among other patients'; a block of rows at a time."""
    _, codes = np.unique(np.asarray(patients), return_inverse=True)
    blocks = np.array_split(np.arange(len(spectra)), -(-len(spectra) // ROWS_AT_ONCE))
    for rows in blocks:
        own = spectra[rows].astype(np.float32)
        alike = np.hstack([own @ spectra[others].astype(np.float32).T for others in blocks])
        alike[codes[rows, None] == codes] = -1
        nearest = alike.argmax(axis=1)
        found = alike[np.arange(len(rows)), nearest]
        yield from zip(rows.tolist(), nearest.tolist(), found.tolist(), strict=True)


def _regrid(thumbnail: Picture, size_mm: Sequence[float], step_mm: float) -> np.ndarray:
    """The thumbnail at a voxel size that all share, cut to the box."""
    picture = np.asarray(thumbnail).astype(np.float32) / 255
    weights = [_places(*each, step_mm) for each in zip(picture.shape, size_mm, strict=True)]
    return along_axes(picture, weights)


def _places(size: int, size_mm: float, step_mm: float) -> np.ndarray:
    """Linear interpolation along an axis, from `size` voxels to those of the common size."""
    wanted = int(np.clip(np.rint(size * size_mm / step_mm), 2, BOX_SIZE))
    places = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    return np.clip(1 - np.abs(places[:, None] - np.arange(size)), 0, None).astype(np.float32)


def along_axes(picture: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Apply a matrix along each axis."""
    for matrix in weights:
        picture = np.tensordot(picture, matrix, axes=(0, 1))  # axes move on by one
    return picture


def _details(picture: np.ndarray) -> np.ndarray:
    """What is finer than the shape of a head, which all people share."""
    return picture - along_axes(picture, [smoothing(size) for size in picture.shape])


@lru_cache(maxsize=256)
def smoothing(size: int, sd: float = DETAIL) -> np.ndarray:
    """A Gaussian along an axis, as a matrix: for few voxels faster than a filter."""
    return ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), sd, 0, mode="nearest")


def _boxed(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, [(0, BOX_SIZE - size) for size in picture.shape])


def _spectrum(thumbnail: np.ndarray, size_mm: Sequence[float], step_mm: float) -> np.ndarray:
    """Low frequencies' magnitudes of the details, which no shift changes; mean zero, length 1.

    Regridding, smoothing and Fourier sums are matrices along the axes: their products are small.
    """
    axes = list(zip(thumbnail.shape, size_mm, (True, True, False), strict=True))
    waves, smooth = (
        along_axes(
            thumbnail.astype(np.float32) / 255,
            [_waves(size, mm, step_mm, both_signs, smoothed) for size, mm, both_signs in axes],
        )
        for smoothed in (False, True)
    )
    sizes = np.abs(waves - smooth).ravel()
    sizes = sizes - sizes.mean()
    return sizes / (np.linalg.norm(sizes) or 1.0)


@lru_cache(maxsize=256)
def _waves(
    size: int, size_mm: float, step_mm: float, both_signs: bool, smoothed: bool
) -> np.ndarray:
    """From a thumbnail's axis to its low frequencies, of positive or of both signs."""
    places = _places(size, size_mm, step_mm)
    if smoothed:
        places = smoothing(len(places)) @ places
    first = 1 - NUM_FREQUENCIES if both_signs else 0
    turns = np.outer(np.arange(first, NUM_FREQUENCIES), np.arange(len(places))) / BOX_SIZE
    return (np.exp(-2j * np.pi * turns) @ places).astype(np.complex64)


def _likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two pictures' detail where they overlap, at the shift where it is highest."""
    details = _details(one), _details(other)
    waves = fft.rfftn(_boxed(details[0])) * fft.rfftn(_boxed(details[1])).conj()
    correlation = fft.irfftn(waves, (BOX_SIZE,) * 3)
    peak = np.unravel_index(correlation.argmax(), correlation.shape)
    energy = np.linalg.norm(details[0]) * np.linalg.norm(details[1])
    if not correlation[peak] >= WORTH_REFINING * energy:
        return 0.0
    shift = [_refined(correlation, peak, axis) for axis in range(3)]
    overlap = tuple(
        slice(max(0, int(np.ceil(-by))), max(0, min(n, int(np.floor(m - 1 - by)) + 1)))
        for by, n, m in zip(shift, other.shape, one.shape, strict=True)
    )
    kept = other[overlap]
    if kept.size < 0.3 * min(one.size, other.size):
        return 0.0
    places = [
        np.arange(part.start, part.stop) + by for part, by in zip(overlap, shift, strict=True)
    ]
    moved = ndimage.map_coordinates(
        one, np.meshgrid(*places, indexing="ij"), order=3, mode="nearest"
    )
    pair = np.array([_details(moved).ravel(), _details(kept).ravel()])
    return float(np.corrcoef(pair)[0, 1]) if pair.std(axis=1).all() else 0.0


def _refined(correlation: np.ndarray, peak: tuple[Any, ...], axis: int) -> float:
    """Place of the peak along one axis between its voxels, by a parabola through three of them."""
    line = correlation[tuple(slice(None) if a == axis else peak[a] for a in range(3))]
    before, here, after = np.take(line, peak[axis] + np.arange(-1, 2), mode="wrap")
    curvature = before - 2 * here + after
    offset = 0.5 * (before - after) / curvature if curvature else 0.0
    place = float(peak[axis] + np.clip(offset, -0.5, 0.5))
    return place - BOX_SIZE if place > BOX_SIZE / 2 else place
