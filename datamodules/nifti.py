"""Read one scan safely: header, geometry and voxels are checked before anything uses them."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from datamodules.nifti_bytes import (
    MAX_BYTES,
    ByteSource,
    ScanError,
    header_file,
    parse_header,
    voxel_file,
)

NUMBERS = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}  # codes of whole and real numbers
OTHER_KINDS = {
    1: "bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit real numbers",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
SMALLEST_MM, LARGEST_MM = 0.01, 50.0
MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre, micrometre
AFNI_HISTORY = 4  # code of an extension that lists what was done to the file
MAX_EXTENSION_BYTES = 64 * 2**20
DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name")
ABOUT_SOFTWARE = re.compile(  # a version, or a program's name and what it writes after it
    r"none|v?[\d.]+(:[\da-f]+)?|TE=[\w.]+(;[\w.=]+)*"
    r"|(FSL|SPM|FreeSurfer|ANTs|ITK|AFNI|NiftyReg|nibabel|dcm2nii\w*|MRtrix|c3d)[\w .,:;/-]*",
    re.IGNORECASE,
)
Warnings = list[tuple[str, str]]


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a scan are.

    Args:
        shape: Voxels along the file's axes.
        affine: From voxel indices to mm in RAS, (4, 4).
        spacing_mm: Voxel size along the file's axes.
        spacing_known: False where the header holds only a placeholder.
        warnings: What is odd but can be used, and how to mend it.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    spacing_known: bool
    warnings: Warnings

    @property
    def orientation(self) -> str:
        """Where the axes point to, such as 'RAS'."""
        return "".join(nib.aff2axcodes(self.affine))


@dataclass(frozen=True)
class Volume:
    """A scan that can be used.

    Args:
        geometry: Where its voxels are.
        voxels: Intensities, float32 (W, H, D) along the file's axes.
        slope: Slope that turned the stored numbers into intensities.
        intercept: The intercept, likewise.
        dtype: Type of the stored numbers.
    """

    geometry: Geometry
    voxels: np.ndarray
    slope: float
    intercept: float
    dtype: str


def refuse_other_orientation(code: str | None) -> None:
    """Raise unless the code names each of the three axes once, as 'RAS' or 'LPI' do."""
    axes = sorted(DIRECTIONS.get(letter, (3,))[0] for letter in code or "RAS")
    if axes != [0, 1, 2]:
        raise ValueError(
            f"preprocessing.assume_orientation is {code!r}. Give three letters, one of R and L, "
            "one of A and P, one of S and I, such as LPS."
        )


def read_geometry(path: Path, assume_orientation: str | None = None) -> Geometry:
    """Read and check a scan's header alone.

    Args:
        path: A NIfTI file, or either file of a pair.
        assume_orientation: Where the axes point to if the header does not say.

    Raises:
        ScanError: If the header cannot be used.
    """
    main = header_file(path)
    with ByteSource(main) as source:
        header, _ = parse_header(source, single=voxel_file(path) == main)
    _stored_type(header)
    return _geometry(header, assume_orientation)


def read_volume(path: Path, assume_orientation: str | None = None) -> Volume:
    """Read and check a scan.

    Args:
        path: A NIfTI file, or either file of a pair.
        assume_orientation: Where the axes point to if the header does not say.

    Raises:
        ScanError: If the file or its header lies or is damaged, or its voxels cannot be used.
    """
    main, other = header_file(path), voxel_file(path)
    with ByteSource(main) as source:
        header, start = parse_header(source, single=main == other)
        dtype = _stored_type(header)
        geometry = _geometry(header, assume_orientation)
        offset, length = _places(header, geometry.shape, dtype, len(start), single=main == other)
        if main == other:
            _refuse_wrong_size(source, offset, length)
            extensions = bytes(source.take(offset - len(start)))
            stored = source.take(length)
            _refuse_short(stored, length)
            source.refuse_more(offset + length)
        else:
            extensions = bytes(source.take(MAX_EXTENSION_BYTES))
            with ByteSource(other) as voxel_source:
                _refuse_wrong_size(voxel_source, offset, length)
                voxel_source.take(offset)
                stored = voxel_source.take(length)
                _refuse_short(stored, length)
                voxel_source.refuse_more(offset + length)
    geometry.warnings.extend(_text_warnings(header, extensions))
    array = np.frombuffer(stored, dtype).reshape(geometry.shape, order="F")
    slope, intercept = _scaling(header, geometry.warnings)
    return Volume(geometry, _scaled(array, slope, intercept), slope, intercept, dtype.name)


def _stored_type(header: Any) -> np.dtype:
    code = int(header["datatype"])
    if code not in NUMBERS:
        kind = OTHER_KINDS.get(code, f"an unknown type of voxel (code {code})")
        raise ScanError(f"holds {kind}, not one number a voxel", "Convert it to float32")
    return header.get_data_dtype()


def _geometry(header: Any, assume_orientation: str | None) -> Geometry:
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
    placeholder = bool(np.all(zooms == 1)) and unit == 0
    width, height, depth = (float(size) for size in spacing)
    return Geometry(shape, affine, (width, height, depth), not placeholder, warnings)


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


def _affine(
    header: Any,
    zooms: np.ndarray,
    shape: tuple[int, int, int],
    assume_orientation: str | None,
    warnings: Warnings,
) -> np.ndarray:
    """The sform, else the qform, else the assumed orientation; in the header's unit."""
    has_sform, has_qform = (1 <= int(header[f"{form}_code"]) <= 5 for form in ("sform", "qform"))
    if not has_sform and not has_qform:
        if assume_orientation is None:
            raise ScanError(
                "does not say its orientation (sform_code and qform_code are 0 or unknown)",
                "Find out and set --data.preprocessing.assume_orientation, e.g. to LPS",
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


def _places(
    header: Any, shape: tuple[int, int, int], dtype: np.dtype, header_size: int, *, single: bool
) -> tuple[int, int]:
    """Offset and length of the voxels in their file, in bytes."""
    offset = float(header["vox_offset"])
    first = header_size + 4 if single else 0
    length = math.prod(shape) * dtype.itemsize
    if not first <= offset <= first + MAX_EXTENSION_BYTES or offset != int(offset):
        raise ScanError(f"says that its voxels begin at byte {offset:g}", "Export it again")
    if (needed := length + 4 * math.prod(shape)) > MAX_BYTES:
        raise ScanError(
            f"promises {' × '.join(map(str, shape))} voxels of {dtype.itemsize} bytes, which take "
            f"{needed / 2**20:,.0f} MiB; {MAX_BYTES // 2**20} are allowed",
            "Crop or resample it, or correct its header",
        )
    return int(offset), length


def _refuse_wrong_size(source: ByteSource, offset: int, length: int) -> None:
    if not source.is_gzip and source.size != offset + length:
        fault = "is truncated" if source.size < offset + length else "is too long"
        raise ScanError(
            f"{fault}: {source.size} bytes where its header promises {offset + length}",
            "Copy or export it again",
        )


def _refuse_short(stored: bytearray, length: int) -> None:
    if len(stored) < length:
        raise ScanError(
            f"is truncated: {len(stored)} bytes of voxels where its header promises {length}",
            "Copy or export it again",
        )


def _scaling(header: Any, warnings: Warnings) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isnan(slope):
        warnings.append(("has the slope NaN", "Set scl_slope to 1; voxels are taken as stored"))
        slope = 0.0
    if slope == 0:
        return 1.0, 0.0
    if not np.isfinite([slope, intercept]).all():
        raise ScanError(
            f"has the slope {slope:g} and intercept {intercept:g}", "Correct its header"
        )
    return slope, intercept


def _scaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if stored.min() == stored.max():
        raise ScanError(f"is constant ({stored.flat[0] * slope + intercept:g})", "Leave it out")
    voxels = np.empty(stored.shape, dtype=np.float32, order="F")
    low, high = np.inf, -np.inf
    for index in range(stored.shape[2]):  # a slice at a time: float64 costs memory
        with np.errstate(over="ignore", invalid="ignore"):
            plane = stored[..., index]
            if (slope, intercept) != (1, 0):
                plane = plane.astype(np.float64) * slope + intercept
            voxels[..., index] = plane
        if not np.isfinite(voxels[..., index]).all():
            beyond = np.isfinite(plane).all()
            what = "numbers beyond float32" if beyond else "NaN or infinite voxels"
            raise ScanError(f"holds {what} (slice {index})", "Repair it or leave it out")
        low, high = min(low, voxels[..., index].min()), max(high, voxels[..., index].max())
    if low == high:
        raise ScanError(f"is constant ({low:g})", "Leave it out")
    return voxels


def _text_warnings(header: Any, extensions: bytes) -> Warnings:
    """Name the fields that hold free text, which may be about a person; never quote them."""
    fields = [name for name in TEXT_FIELDS if name in header]
    texts = {name: header[name].item().strip(b"\0 ").decode("latin-1") for name in fields}
    warnings = [
        (
            f"header field {name} holds text ({len(text)} characters) that may be about a person",
            "Clear it if it is",
        )
        for name, text in texts.items()
        if text and not ABOUT_SOFTWARE.fullmatch(text)
    ]
    code = int.from_bytes(extensions[8:12], "little" if header.endianness == "<" else "big")
    if extensions[4:].strip(b"\0") and code != AFNI_HISTORY:
        warnings.append(
            (
                f"has a header extension ({len(extensions) - 4} bytes) that may be about a person",
                "Remove it if it is",
            )
        )
    return warnings


def _triplet(sizes: np.ndarray) -> str:
    return " × ".join(f"{size:.4g}" for size in sizes)
