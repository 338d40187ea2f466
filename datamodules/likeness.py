"""How alike two scans are in their fine detail, which is as personal as a fingerprint.

Each thumbnail is compared with the one that is nearest to it among other patients' by the
magnitudes of its low frequencies, which no shift changes; that pair is then aligned and correlated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft, ndimage

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
        spectrum[:] = _spectrum(_regrid(thumbnail, size_mm, step_mm))
    pairs = {
        (min(first, second), max(first, second))
        for first, second, alike in _nearest(spectra, patients)
        if alike >= WORTH_COMPARING
    }
    for first, second in sorted(pairs):
        both = pictures[first], pictures[second]
        one, other = (_regrid(thumbnail, size_mm, step_mm) for thumbnail, size_mm in both)
        value = _likeness(one, other)
        if value >= LIKENESS:
            yield first, second, value


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
    sizes = np.rint(np.multiply(picture.shape, size_mm) / step_mm)
    sizes = np.clip(sizes, 2, BOX_SIZE).astype(int)
    for wanted, size in zip(sizes, picture.shape, strict=True):
        places = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
        weights = np.clip(1 - np.abs(places[:, None] - np.arange(size)), 0, None)  # linear
        picture = np.tensordot(picture, weights.astype(np.float32), axes=(0, 1))
    return picture


def _details(picture: np.ndarray) -> np.ndarray:
    """What is finer than the shape of a head, which all people share."""
    return picture - ndimage.gaussian_filter(picture, 2.0, mode="nearest")


def _boxed(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, [(0, BOX_SIZE - size) for size in picture.shape])


def _spectrum(picture: np.ndarray) -> np.ndarray:
    """Low frequencies' magnitudes, which no shift changes, as a unit vector of mean zero."""
    waves = _details(picture)
    for first, size in zip(
        (1 - NUM_FREQUENCIES, 1 - NUM_FREQUENCIES, 0), picture.shape, strict=True
    ):
        turns = np.outer(np.arange(first, NUM_FREQUENCIES), np.arange(size)) / BOX_SIZE
        waves = np.tensordot(waves, np.exp(-2j * np.pi * turns).astype(np.complex64), axes=(0, 1))
    sizes = np.abs(waves).ravel()
    sizes = sizes - sizes.mean()
    return sizes / (np.linalg.norm(sizes) or 1.0)


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
