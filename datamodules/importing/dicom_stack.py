"""Stack the pictures of one DICOM series in space, or say why they are no even stack.

DICOM counts millimetres towards left, posterior, superior (LPS); NIfTI towards right, anterior,
superior (RAS). The geometry follows DICOM PS3.3 C.7.6.2.1.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

import numpy as np

from datamodules.importing.dicom_header import Picture
from datamodules.importing.dicom_mixture import names, refuse_mixed_contrasts, why_repeated

STEP_TOLERANCE = 0.02  # of the distance between slices
MIN_TOLERANCE_MM = 0.01  # headers round positions
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 100.0
MAX_DISTANCE_MM = 1e5
MAX_SIZE = 32767  # of NIfTI-1


@dataclass(frozen=True)
class Stack:
    """Slices from the first to the last along their normal.

    Args:
        pictures: The slices in order.
        affine: Voxel indices (column, row, slice) to mm, RAS, (4, 4).
    """

    pictures: list[Picture]
    affine: np.ndarray


def stack(pictures: Sequence[Picture]) -> Stack:
    """Order the slices of a series and derive the affine.

    Args:
        pictures: All pictures of one series of one patient.

    Raises:
        ValueError: In one sentence, without the series' name, if they are no even stack.
    """
    first = pictures[0]
    for picture in pictures:
        _check_picture(picture)
        if picture.size != first.size:
            raise ValueError(
                f"pictures of two sizes, {_by(first.size)} and {_by(picture.size)} "
                f"({names(first, picture)}). Part them, or leave the odd ones out"
            )
    for what, plural in (("spacing", "voxel sizes"), ("orientation", "orientations")):
        values = np.array([getattr(picture, what) for picture in pictures])
        odd = (np.abs(values - values[0]) > 1e-3).any(axis=1)
        if odd.any():
            raise ValueError(
                f"mixed {plural} ({names(first, pictures[odd.argmax()])}). Part them, or leave the "
                "odd ones out"
            )
    row, column = np.array(first.orientation).reshape(2, 3)
    normal = np.cross(row, column)
    ordered = sorted(pictures, key=lambda picture: float(np.dot(normal, picture.position or ())))
    positions = np.array([picture.position for picture in ordered])
    _check_steps(ordered, positions @ normal)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_line(ordered, positions, step, normal)
    refuse_mixed_contrasts(ordered)
    assert first.spacing is not None
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]  # from one column to the next
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return Stack(ordered, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _check_picture(picture: Picture) -> None:
    name = repr(picture.path.name)
    if not picture.colour:
        raise ValueError(f"PhotometricInterpretation is missing in {name}. Export it again")
    if not picture.colour.startswith("MONOCHROME"):
        raise ValueError(
            f"colour pictures ({picture.colour[:16]!r} in {name}), no scan. Leave the series out"
        )
    if picture.colour != "MONOCHROME2":
        raise ValueError(
            f"inverted grey values ({picture.colour[:16]!r} in {name}). Export it again"
        )
    for what, keyword in (
        ("position", "ImagePositionPatient"),
        ("orientation", "ImageOrientationPatient"),
        ("spacing", "PixelSpacing"),
    ):
        if getattr(picture, what) is None:
            raise ValueError(f"{keyword} is missing or not a number in {name}. Export it again")
    assert picture.position is not None
    assert picture.orientation is not None
    assert picture.spacing is not None
    if not _is_right_angled(picture.orientation):
        raise ValueError(f"rows and columns are not at right angles in {name}. Export it again")
    if not all(MIN_SPACING_MM <= size <= MAX_SPACING_MM for size in picture.spacing):
        sizes = "absurd ({:g} × {:g} mm)".format(*picture.spacing)
        raise ValueError(f"PixelSpacing in {name} is {sizes}. Export it again")
    if max(map(abs, picture.position)) > MAX_DISTANCE_MM:
        raise ValueError(f"ImagePositionPatient in {name} is absurd. Export it again")
    if min(picture.size) < 1 or max(picture.size) > MAX_SIZE:
        raise ValueError(f"the picture {name} is {_by(picture.size)}. Export it again")
    if not isfinite(picture.slope) or not isfinite(picture.intercept) or picture.slope == 0:
        raise ValueError(f"RescaleSlope or RescaleIntercept in {name} is 0 or not a number")


@lru_cache(maxsize=2**10)  # most pictures of a series have one orientation
def _is_right_angled(orientation: tuple[float, ...]) -> bool:
    axes = np.array(orientation).reshape(2, 3)
    return np.allclose(axes @ axes.T, np.eye(2), atol=1e-3)


def _check_steps(ordered: Sequence[Picture], heights: np.ndarray) -> None:
    steps = np.diff(heights)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # the lower median
    if (near := steps < max(MIN_TOLERANCE_MM, 0.1 * usual)).any():
        raise ValueError(why_repeated(ordered, near))
    if usual > MAX_SPACING_MM:
        raise ValueError(f"slices {usual:g} mm apart ({names(*ordered[:2])}). Export it again")
    tolerance = max(MIN_TOLERANCE_MM, STEP_TOLERANCE * usual)
    for index, step in enumerate(steps):
        if abs(step - usual) <= tolerance:
            continue
        where = (
            f"({names(*ordered[index : index + 2])} are {step:.4g} mm apart, others {usual:.4g})"
        )
        missing = round(step / usual) - 1
        if missing > 0 and abs(step - (missing + 1) * usual) <= 2 * tolerance:
            raise ValueError(
                f"{missing} slice{'s' * (missing > 1)} missing in between {where}. Export it again"
            )
        raise ValueError(f"unevenly spaced slices {where}. Resample it with a tool made for it")


def _check_line(
    ordered: Sequence[Picture], positions: np.ndarray, step: np.ndarray, normal: np.ndarray
) -> None:
    sideways = np.linalg.norm(step - (step @ normal) * normal) / np.linalg.norm(step)
    if sideways > 0.005:
        angle = float(np.degrees(np.arcsin(min(1.0, float(sideways)))))
        raise ValueError(
            f"a sheared stack, by {angle:.1f}° (tilted gantry), from "
            f"{names(ordered[0], ordered[-1])}. Resample it with a tool made for it"
        )
    line = positions[0] + np.outer(np.arange(len(ordered)), step)
    away = np.linalg.norm(positions - line, axis=1)
    if away.max() > max(0.05, 0.1 * float(np.linalg.norm(step))):
        worst = ordered[int(away.argmax())]
        raise ValueError(
            f"{worst.path.name!r} lies {away.max():.3g} mm off the others. Export it again"
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
