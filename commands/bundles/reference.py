"""What a fold's training scans were like, kept without a voxel, and how a new scan differs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.volumes import Volumes

Range = list[float]  # lowest and highest, as JSON has it
SPACING_FACTOR = 1.1  # a voxel may be this much larger or smaller than those seen
RAW_FACTOR = 2.0  # raw intensities are in arbitrary units
PREPROCESSED_SHARE = 0.5  # of the range seen, beyond either end


@dataclass(frozen=True)
class ScanFacts:
    """What one scan is like.

    Args:
        orientation: Where the axes of the file point to, for instance 'LPS'.
        spacing_mm: Voxel size in the file, along R, A, S.
        raw_sd: Standard deviation of the voxels in the file.
        mean: Mean of the preprocessed voxels, over all contrasts that are there.
        sd: Standard deviation of the preprocessed voxels, the mean over the contrasts.
    """

    orientation: str
    spacing_mm: tuple[float, float, float]
    raw_sd: float
    mean: float
    sd: float


@dataclass(frozen=True)
class Reference:
    """What a fold's training scans were like; each range is the lowest and the highest.

    Args:
        num_scans: Number of training scans.
        orientations: Orientations of their files.
        spacing_mm: Range of the voxel size in the files, along R, A, S.
        raw_sd: Range of the standard deviation of the voxels in the files.
        mean: Range of the mean of the preprocessed voxels.
        sd: Range of the standard deviation of the preprocessed voxels.
        feature_mean: Mean of the encoder's features, (F,).
        feature_sd: Their standard deviation, (F,).
        largest_distance: Largest distance in feature space of a scan that was held out.
    """

    num_scans: int
    orientations: list[str]
    spacing_mm: list[Range]
    raw_sd: Range
    mean: Range
    sd: Range
    feature_mean: list[float]
    feature_sd: list[float]
    largest_distance: float


def read_facts(volumes: Volumes) -> list[ScanFacts]:
    """Describe scans and their preprocessed volumes, row by row."""
    sds = np.nanmean(np.sqrt(np.maximum(volumes.mean_squares - volumes.means**2, 0)), axis=1)
    means = np.nanmean(volumes.means, axis=1)
    spacings, raw_sds = map(tuple, volumes.file_spacings_mm.tolist()), volumes.file_sds.tolist()
    columns = volumes.orientations, spacings, raw_sds, means.tolist(), sds.tolist()
    return [ScanFacts(*row) for row in zip(*columns, strict=True)]


def describe(facts: Sequence[ScanFacts], features: np.ndarray, held_out: np.ndarray) -> Reference:
    """Sum up training scans.

    Args:
        facts: What each training scan is like.
        features: Their features, (N, F).
        held_out: Features of scans that were not trained on, (M, F).
    """
    mean, sd = features.mean(0), features.std(0)
    spacings = np.array([each.spacing_mm for each in facts]).T
    return Reference(
        num_scans=len(facts),
        orientations=sorted({each.orientation for each in facts}),
        spacing_mm=[_range(sizes) for sizes in spacings],
        raw_sd=_range([each.raw_sd for each in facts]),
        mean=_range([each.mean for each in facts]),
        sd=_range([each.sd for each in facts]),
        feature_mean=mean.tolist(),
        feature_sd=sd.tolist(),
        largest_distance=float(_distances(held_out, mean, sd).max(initial=0)),
    )


def distances(reference: Reference, features: np.ndarray) -> np.ndarray:
    """Measure how far features (N, F) are from the training scans', in standard deviations.

    The root of the mean square over the features; one that is constant in training counts as
    varying by a hundredth of the one that varies most.
    """
    mean, sd = np.array(reference.feature_mean), np.array(reference.feature_sd)
    return _distances(features, mean, sd)


def differences(facts: ScanFacts, references: Sequence[Reference]) -> list[str]:
    """Say in words where a scan's file and intensities are unlike all training scans.

    Args:
        facts: What the scan is like.
        references: Those of the folds that predict it; a scan is unlike if it is unlike each.
    """
    found = []
    known = sorted({name for reference in references for name in reference.orientations})
    if facts.orientation not in known:
        found.append(f"orientation {facts.orientation}, trained on {', '.join(known)}")
    for axis, name in enumerate(("left-right", "front-back", "up-down")):
        low, high = _joint([reference.spacing_mm[axis] for reference in references])
        size = facts.spacing_mm[axis]
        if not low / SPACING_FACTOR <= size <= high * SPACING_FACTOR:
            found.append(f"{name} voxel size {size:.3g} mm, trained on {_words(low, high)}")
    low, high = _joint([reference.raw_sd for reference in references])
    if not low / RAW_FACTOR <= facts.raw_sd <= high * RAW_FACTOR:
        found.append(f"raw intensities vary by {facts.raw_sd:.3g}, trained on {_words(low, high)}")
    for name, value, ranges in (
        ("mean", facts.mean, [reference.mean for reference in references]),
        ("standard deviation", facts.sd, [reference.sd for reference in references]),
    ):
        low, high = _joint(ranges)
        slack = PREPROCESSED_SHARE * (high - low)
        if not low - slack <= value <= high + slack:
            found.append(f"{name} intensity {value:.3g}, trained on {_words(low, high)}")
    return found


def _distances(features: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    unit = np.maximum(sd, 0.01 * sd.max(initial=0) + 1e-9)
    return np.sqrt(np.square((features - mean) / unit).sum(1) / max(len(mean), 1))


def _range(values: Sequence[float] | np.ndarray) -> Range:
    return [float(np.min(values)), float(np.max(values))]


def _joint(ranges: Sequence[Range]) -> Range:
    return [min(low for low, _ in ranges), max(high for _, high in ranges)]


def _words(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
