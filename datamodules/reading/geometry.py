"""Where the voxels of a NIfTI file are: shape, affine, voxel size and orientation, all checked."""

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from datamodules.reading.nifti_bytes import ScanError

SMALLEST_MM, LARGEST_MM = 0.01, 50.0
MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre, micrometre
DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
Warnings = list[tuple[str, str]]


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a scan are.

    Args:
        shape: Voxels along the file's axes.
        affine: From voxel indices to mm in RAS, (4, 4).
        spacing_mm: Voxel size along the file's axes.
        spacing_known: False where the header does not say it: 1 × 1 × 1 without a unit, and
            neither sform nor qform.
        spacing_doubtful: True where it says 1 × 1 × 1 without a unit: what nibabel writes both
            for true voxels of 1 mm and by default.
        warnings: What is odd but can be used, and how to fix it.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    spacing_known: bool
    spacing_doubtful: bool
    warnings: Warnings

    @property
    def orientation(self) -> str:
        """Where the axes point to, such as 'RAS'."""
        return "".join(nib.aff2axcodes(self.affine))


def refuse_other_orientation(code: str | None) -> None:
    """Raise unless the code names each of the three axes once, as 'RAS' or 'LPI' do."""
    axes = sorted(DIRECTIONS.get(letter, (3,))[0] for letter in code or "RAS")
    if axes != [0, 1, 2]:
        raise ValueError(
            f"preprocessing.assume_orientation is {code!r}. Give three letters, one of R and L, "
            "one of A and P, one of S and I, such as LPS."
        )


def geometry_of(header: Any, assume_orientation: str | None) -> Geometry:
    """Check what a header says of its voxels' places.

    Raises:
        ScanError: If it cannot be used.
    """
    shape = _shape(header)
    warnings: Warnings = []
    unit = int(header["xyzt_units"]) & 7
    zooms = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(zooms).all() or (zooms <= 0).any():
        raise ScanError(
            f"has the voxel size {_triplet(zooms)}, which must be positive",
            "Correct pixdim in its header",
        )
    affine = _affine(header, zooms, shape, assume_orientation, warnings)
    mm = MM_PER_UNIT.get(unit, 1.0)
    affine[:3] *= mm
    spacing = zooms * mm
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        volume = abs(np.linalg.det(affine[:3, :3] / lengths)) if lengths.all() else 0.0
    if not volume >= 1e-3:  # nor if it is not a number
        raise ScanError("has a singular affine", "Correct sform or qform in its header")
    for sizes in (spacing, lengths):
        if sizes.min() < SMALLEST_MM or sizes.max() > LARGEST_MM:
            raise ScanError(
                f"has the absurd voxel size {_triplet(sizes)} mm",
                f"Correct its header; {SMALLEST_MM} to {LARGEST_MM:g} mm are allowed",
            )
    if not np.allclose(spacing, lengths, rtol=0.01):
        warnings.append(
            (
                f"pixdim says {_triplet(spacing)} mm, its affine {_triplet(lengths)} mm",
                "Correct the wrong one; the affine is used",
            )
        )
        spacing = lengths
    cosines = (affine[:3, :3] / lengths).T @ (affine[:3, :3] / lengths) - np.eye(3)
    if np.abs(cosines).max() > 0.01:
        warnings.append(("has a sheared affine", "Resample it to a grid without shear"))
    if spacing.max() / spacing.min() > 8:
        warnings.append(
            (
                f"is extremely anisotropic: {_triplet(spacing)} mm",
                "See that its slices are thick enough to be of use",
            )
        )
    doubtful = bool(np.all(zooms == 1)) and unit == 0
    known = not doubtful or any(_forms(header))
    width, height, depth = (float(size) for size in spacing)
    return Geometry(shape, affine, (width, height, depth), known, doubtful, warnings)


def _shape(header: Any) -> tuple[int, int, int]:
    num_axes = int(header["dim"][0])
    if not 1 <= num_axes <= 7:
        raise ScanError(f"has {num_axes} axes in its header", "Export it again")
    sizes = [int(size) for size in header["dim"][1 : num_axes + 1]]
    written = " × ".join(map(str, sizes))
    if min(sizes) < 1:
        raise ScanError(f"has the shape {written}", "Export it again")
    if any(size > 1 for size in sizes[3:]):
        raise ScanError(
            f"has the shape {written}, not that of one 3D volume", "Save one volume as a 3D file"
        )
    width, height, depth = [*sizes, 1, 1][:3]
    if min(width, height, depth) < 3:
        raise ScanError(f"has the shape {written}: an axis of fewer than 3 voxels", "Leave it out")
    return width, height, depth


def _forms(header: Any) -> tuple[bool, bool]:
    """Whether the header has a sform and a qform."""
    has_sform, has_qform = (1 <= int(header[f"{form}_code"]) <= 5 for form in ("sform", "qform"))
    return has_sform, has_qform


def _affine(
    header: Any,
    zooms: np.ndarray,
    shape: tuple[int, int, int],
    assume_orientation: str | None,
    warnings: Warnings,
) -> np.ndarray:
    """The sform, else the qform, else the assumed orientation; in the header's unit."""
    has_sform, has_qform = _forms(header)
    if not has_sform and not has_qform:
        if assume_orientation is None:
            raise ScanError(
                "does not say its orientation (sform_code and qform_code are 0 or unknown)",
                "Write it into the header (nibabel's set_sform), or set "
                "--data.preprocessing.assume_orientation=LPS, or what it is",
            )
        affine = np.diag([0.0, 0.0, 0.0, 1.0])
        for column, letter in enumerate(assume_orientation):
            axis, sign = DIRECTIONS[letter]
            affine[axis, column] = sign * zooms[column]
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return affine
    qform = _qform(header, zooms) if has_qform else None
    if has_sform:
        affine = np.asarray(header.get_sform(), dtype=np.float64)
        if np.isfinite(affine).all() and qform is not None and _axes(qform) != _axes(affine):
            warnings.append(
                (
                    f"sform says {_axes(affine)}, qform {_axes(qform)}",
                    "See which one is right; the sform is used",
                )
            )
    elif qform is None:
        raise ScanError("has no valid quaternion in its qform", "Correct its header")
    else:
        affine = qform
    if not np.isfinite(affine).all():
        raise ScanError("has an affine that is not finite", "Correct sform or qform in its header")
    return affine


def _qform(header: Any, zooms: np.ndarray) -> np.ndarray | None:
    """The affine of the quaternion, None where it is not one; a qfac other than -1 counts as 1."""
    vector = np.array([header[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64)
    square = float(vector @ vector)
    if not np.isfinite(square) or square > 1 + 1e-4:
        return None
    scalar = np.sqrt(max(1 - square, 0.0))
    qfac = -1.0 if float(header["pixdim"][0]) == -1 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = nib.quaternions.quat2mat([scalar, *vector]) * (zooms * [1, 1, qfac])
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _axes(affine: np.ndarray) -> str:
    return "".join(code or "?" for code in nib.aff2axcodes(affine))


def _triplet(sizes: np.ndarray) -> str:
    return " × ".join(f"{size:.4g}" for size in sizes)
