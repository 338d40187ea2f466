"""Plan the preprocessing of an unknown cohort from what its scans' check found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from datamodules.batches.warp import rotated_extent, turning_axes
from datamodules.checks.masks import MaskCheck
from datamodules.checks.scan_check import ScanFacts
from datamodules.preprocessing import Preprocessing, Triplet

# Voxels of a planned shape: 25 trainings of 140 scans take 9 minutes on two CPU cores, and 1,500
# volumes of 64³ a second go through an H200 (docs/benchmarks.md).
CPU_BUDGET, GPU_BUDGET = 32**3, 96**3
IMPLAUSIBLE = 1.5  # ratio of the extents of a cohort's 10th and 90th percentile along an axis


@dataclass(frozen=True)
class Fingerprint:
    """Geometry of a cohort in RAS order.

    Args:
        shapes: Voxels per axis, (num_scans, 3).
        spacings_mm: Voxel sizes in mm, (num_scans, 3).
        spacing_known: False where a header does not say it, (num_scans,).
        spacing_doubtful: True where a header says 1 × 1 × 1 without a unit, (num_scans,).
    """

    shapes: np.ndarray
    spacings_mm: np.ndarray
    spacing_known: np.ndarray
    spacing_doubtful: np.ndarray


def cohort_fingerprint(scans: Sequence[ScanFacts]) -> Fingerprint:
    """Put what is known of each scan into the order R, A, S."""
    order = [np.argsort(["RLAPSI".index(axis) for axis in scan.orientation]) for scan in scans]
    return Fingerprint(
        np.array([np.take(scan.shape, axes) for scan, axes in zip(scans, order, strict=True)]),
        np.array([np.take(scan.spacing_mm, axes) for scan, axes in zip(scans, order, strict=True)]),
        np.array([scan.spacing_known for scan in scans]),
        np.array([scan.spacing_doubtful for scan in scans]),
    )


def cropped_shapes(
    fingerprint: Fingerprint, masks: Sequence[MaskCheck], margin_mm: float
) -> np.ndarray:
    """Voxels of each scan around its mask, (num_scans, 3).

    Args:
        fingerprint: Geometry of the whole scans.
        masks: Their masks.
        margin_mm: What is kept around a mask.

    Raises:
        ValueError: With one line per mask that cannot be used.
    """
    if faults := [mask.fault for mask in masks if mask.fault]:
        raise ValueError("\n  ".join(["Masks that cannot be used:", *faults]))
    margins = np.rint(margin_mm / fingerprint.spacings_mm)
    starts = np.maximum([mask.start for mask in masks] - margins, 0)
    stops = np.minimum([mask.stop for mask in masks] + margins, fingerprint.shapes)
    return (stops - starts).astype(int)


def default_budget(accelerator: str = "auto") -> int:
    """Number of voxels a scan may have on this machine.

    Args:
        accelerator: What the trainer is told to use.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return GPU_BUDGET if on_gpu else CPU_BUDGET


def plan_preprocessing(
    fingerprint: Fingerprint, wanted: Preprocessing
) -> tuple[Preprocessing, str]:
    """Choose spacing, shape and fit: the medians, coarsened until they fit the voxel budget.

    The finest axes are coarsened first, and scans are cropped or padded. Where most headers do not
    say the voxel size, or say one that cannot be meant (see `_implausible`), scans are resized
    and spacing is left alone. Where few do not say it, these get the median of the others.

    Args:
        fingerprint: Geometry of the cohort.
        wanted: Settings of the user, with a `voxel_budget`; a given `fit` or `spacing_mm` is kept.

    Returns:
        The completed settings, and sentences that say what was planned and why.
    """
    assert wanted.voxel_budget is not None
    known = fingerprint.spacing_known
    if wanted.assume_spacing_mm is None and 2 * known.sum() > len(known) > known.sum():
        wanted = replace(wanted, assume_spacing_mm=_median(fingerprint.spacings_mm[known]))
    spacings = _spacings(fingerprint, wanted)
    why = "Resized as asked for." if wanted.fit == "resize" else ""
    if wanted.fit is None and wanted.spacing_mm is None:
        why = _why_resize(fingerprint, wanted)
    fit = wanted.fit or ("resize" if why else "crop_or_pad")
    use_mm = fit == "crop_or_pad" or wanted.spacing_mm is not None
    extents = fingerprint.shapes * (spacings if use_mm else 1)
    extent = np.median(extents, axis=0)
    if fit == "crop_or_pad":
        turns = turning_axes(np.median(fingerprint.shapes, axis=0))
        extent = rotated_extent(extent, wanted.margin_degrees * turns)
    spacing = np.median(spacings if use_mm else np.ones_like(spacings), axis=0)
    if wanted.spacing_mm is not None:
        spacing = np.asarray(wanted.spacing_mm)
    while np.prod(shape := np.maximum(np.rint(extent / spacing), 1)) > wanted.voxel_budget:
        if wanted.spacing_mm is not None:
            raise ValueError(
                f"At spacing_mm {wanted.spacing_mm} the median scan has {np.prod(shape):.0f} "
                f"voxels, more than voxel_budget {wanted.voxel_budget}. Raise one of them, or "
                "set --data.preprocessing.spatial_shape."
            )
        spacing = np.maximum(spacing, spacing.min() * 1.01)
    width, height, depth = (int(size) for size in shape)
    plan = replace(
        wanted,
        spacing_mm=_median(spacing[np.newaxis]) if use_mm else None,
        spatial_shape=(width, height, depth),
        fit=fit,
    )
    what = "voxel size and extent" if use_mm else "shape"
    words = [f"Planned from the median {what}, for at most {wanted.voxel_budget:,} voxels."]
    words += [why, unknown_spacings(fingerprint, plan)]
    if fit == "crop_or_pad":
        num_cut = int((extents - shape * spacing > 0.05 * extents).any(axis=1).sum())
        if num_cut:
            words.append(f"{num_cut} of {len(extents)} scans lose more than 5 % of an axis.")
    return plan, " ".join(filter(None, words))


def unknown_spacings(fingerprint: Fingerprint, settings: Preprocessing) -> str:
    """Say how many headers do not know their voxel size and what it is taken for; '' if none."""
    num_unknown = int((~fingerprint.spacing_known).sum())
    if not num_unknown:
        return ""
    assumed = settings.assume_spacing_mm
    if (fingerprint.shapes[:, 2] == 1).all():
        what = "Pictures do not say their pixel size"
    else:
        what = (
            f"The headers of {num_unknown} of {len(fingerprint.spacing_known)} scans do not say "
            "their voxel size (no sform, no qform, no unit)"
        )
    size = " × ".join(f"{mm:g}" for mm in assumed or (1, 1, 1))
    how = "Set --data.preprocessing.assume_spacing_mm to what it is."
    return f"{what}; it counts as {size} mm. {how}"


def voxel_size_mm(fingerprint: Fingerprint, settings: Preprocessing) -> Triplet | None:
    """Median voxel size of the preprocessed scans, where it follows from their own.

    Args:
        fingerprint: Geometry of the cohort.
        settings: The completed settings.

    Returns:
        Sizes in mm along R, A, S; None where most headers do not say them, or cannot mean them.
    """
    known = fingerprint.spacing_known
    if settings.assume_spacing_mm is None and 2 * known.sum() > len(known):
        settings = replace(settings, assume_spacing_mm=_median(fingerprint.spacings_mm[known]))
    if _why_resize(fingerprint, settings):
        return None
    sizes = _spacings(fingerprint, settings)
    if settings.fit == "resize":
        assert settings.spatial_shape is not None, "plan the preprocessing first"
        sizes = sizes * fingerprint.shapes / settings.spatial_shape
    return _median(sizes)


def _why_resize(fingerprint: Fingerprint, wanted: Preprocessing) -> str:
    """Why millimetres cannot be used, '' if they can be."""
    if wanted.assume_spacing_mm is None and not fingerprint.spacing_known.all():
        return "Resized, because the voxel size of most scans is unknown."
    doubtful = fingerprint.spacing_doubtful & fingerprint.spacing_known
    num_scans = len(doubtful)
    if 2 * doubtful.sum() <= num_scans:
        return ""
    extents = fingerprint.shapes[doubtful]
    low = np.percentile(extents, 10, axis=0, method="higher")
    high = np.percentile(extents, 90, axis=0, method="lower")
    axis = int(np.argmax(high / low))
    if high[axis] <= IMPLAUSIBLE * low[axis]:
        return ""
    return (
        f"Resized, because {doubtful.sum()} of {num_scans} headers say 1 × 1 × 1 mm without a "
        f"unit, by which scans are {extents[:, axis].min()} to {extents[:, axis].max()} mm long "
        f"along {'RAS'[axis]}: this looks like a placeholder. If it is true, set "
        "--data.preprocessing.fit=crop_or_pad; if you know better, correct the headers."
    )


def _spacings(fingerprint: Fingerprint, settings: Preprocessing) -> np.ndarray:
    """Voxel sizes with what is assumed where they are unknown, (num_scans, 3)."""
    if settings.assume_spacing_mm is None:
        return fingerprint.spacings_mm
    known = fingerprint.spacing_known[:, np.newaxis]
    return np.where(known, fingerprint.spacings_mm, settings.assume_spacing_mm)


def _median(spacings: np.ndarray) -> Triplet:
    right, front, up = (round(float(size), 2) for size in np.median(spacings, axis=0))
    return right, front, up
