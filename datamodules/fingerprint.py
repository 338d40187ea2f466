"""Plan the preprocessing of an unknown cohort from its headers alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from datamodules.nifti import ScanError, read_geometry
from datamodules.preprocessing import Preprocessing


@dataclass(frozen=True)
class Fingerprint:
    """Geometry of a cohort in RAS order.

    Args:
        shapes: Voxels per axis, (num_scans, 3).
        spacings_mm: Voxel sizes in mm, (num_scans, 3).
        spacing_known: False where a header holds only a placeholder, (num_scans,).
    """

    shapes: np.ndarray
    spacings_mm: np.ndarray
    spacing_known: np.ndarray


def read_fingerprint(paths: Sequence[Path], assume_orientation: str | None = None) -> Fingerprint:
    """Read every header; a spacing of exactly 1 × 1 × 1 without a unit counts as unknown.

    Args:
        paths: The scans.
        assume_orientation: Where the axes point to if a header does not say.

    Raises:
        ValueError: With one line per file that is unreadable or not one 3D volume.
    """
    shapes, spacings, known, faults = [], [], [], []
    for path in paths:
        try:
            geometry = read_geometry(path, assume_orientation)
        except ScanError as fault:
            faults.append(f"{path} {fault}")
            continue
        order = np.argsort(nib.orientations.io_orientation(geometry.affine)[:, 0])
        shapes.append(np.asarray(geometry.shape)[order])
        spacings.append(np.asarray(geometry.spacing_mm)[order])
        known.append(geometry.spacing_known)
    if faults:
        raise ValueError("\n  ".join(["Scans that cannot be used:", *faults]))
    return Fingerprint(np.array(shapes), np.array(spacings), np.array(known))


def plan_preprocessing(
    fingerprint: Fingerprint, wanted: Preprocessing
) -> tuple[Preprocessing, str]:
    """Choose spacing, shape and fit: the medians, coarsened until they fit the voxel budget.

    Where all spacings are known, the finest axes are coarsened first and scans are cropped or
    padded; otherwise scans are resized and spacing is left alone.

    Args:
        fingerprint: Geometry of the cohort.
        wanted: Settings of the user; a given `spacing_mm` is kept.

    Returns:
        The completed settings, and a sentence that says what was planned and why.
    """
    use_mm = wanted.fit == "crop_or_pad" and (
        wanted.spacing_mm is not None or bool(fingerprint.spacing_known.all())
    )
    voxel_mm = fingerprint.spacings_mm if use_mm else np.ones_like(fingerprint.spacings_mm)
    extents = fingerprint.shapes * voxel_mm
    extent = np.median(extents, axis=0)
    spacing = np.median(voxel_mm, axis=0)
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
    if not use_mm:
        why = "Resized as asked for."
        if not fingerprint.spacing_known.all():
            why = "Planned from the median shape: not all headers know their voxel size."
        plan = replace(wanted, spacing_mm=None, spatial_shape=(width, height, depth), fit="resize")
        return plan, why
    right, front, up = (round(float(size), 2) for size in spacing)
    plan = replace(wanted, spacing_mm=(right, front, up), spatial_shape=(width, height, depth))
    cut = extents - shape * spacing
    num_cut = int((cut > 0.05 * extents).any(axis=1).sum())
    why = "Planned from the median voxel size and extent."
    if num_cut:
        why += f" {num_cut} of {len(extents)} scans lose more than 5 % of an axis."
    return plan, why
