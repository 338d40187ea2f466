"""Read one scan safely: header, geometry and voxels are checked before anything uses them."""

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.reading.freesurfer import parse_mgh
from datamodules.reading.geometry import Geometry, Warnings, geometry_of
from datamodules.reading.nifti_bytes import (
    MAX_BYTES,
    ByteSource,
    ScanError,
    header_file,
    is_picture,
    parse_header,
    suffix_of,
    voxel_file,
)
from datamodules.reading.picture import read_picture
from files.hashes import digest, hash_file

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
AFNI_HISTORY = 4  # code of an extension that lists what was done to the file
MAX_EXTENSION_BYTES = 64 * 2**20
TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name")
ABOUT_SOFTWARE = re.compile(  # a version, or a program's name and what it writes after it
    r"none|v?[\d.]+(:[\da-f]+)?|TE=[\w.]+(;[\w.=]+)*"
    r"|(FSL|SPM|FreeSurfer|ANTs|ITK|AFNI|NiftyReg|nibabel|dcm2nii\w*|MRtrix|c3d)[\w .,:;/-]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """What is done where a file leaves something open.

    Args:
        assume_orientation: Where the axes point to if the header does not say.
        fill_nan: Whether NaN voxels get the scan's smallest intensity; otherwise they are refused.
    """

    assume_orientation: str | None = None
    fill_nan: bool = False


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


class ScanFile:
    """A scan that is open for reading: its file, or both files of a .hdr and .img pair.

    Args:
        path: A NIfTI file, either file of a pair, or a picture.

    Raises:
        ScanError: If a file cannot be opened, or is not what its name says.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as stack:
            self.sources = [stack.enter_context(ByteSource(file)) for file in scan_files(path)]
            self._stack = stack.pop_all()

    def __enter__(self) -> "ScanFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(source.size for source in self.sources)

    def content_hash(self) -> str:
        """Hash the bytes as they are stored; to be asked for before anything else is read."""
        return _joint_hash([hash_file(each.path, each.file) for each in self.sources])

    def read(self, reading: Reading = Reading()) -> Volume:
        """Read and check the scan, once.

        Args:
            reading: What is done where its files leave something open.

        Raises:
            ScanError: If the file or its header lies or is damaged, or its voxels cannot be used.
        """
        main, other = self.sources[0], self.sources[-1]
        if is_picture(main.path):
            pixels, geometry = read_picture(main)
            voxels = _scaled(pixels, 1.0, 0.0, reading, geometry.warnings)
            return Volume(geometry, voxels, 1.0, 0.0, pixels.dtype.name)
        if suffix_of(main.path).lower() in (".mgz", ".mgh"):
            return self._read_mgh(main, reading)
        single = main is other
        header, start = parse_header(main, single=single)
        dtype = _stored_type(header)
        geometry = geometry_of(header, reading.assume_orientation)
        offset, length = _places(header, geometry.shape, dtype, len(start), single=single)
        _refuse_wrong_size(other, offset, length)
        if single:
            extensions = bytes(main.take(offset - len(start)))
        else:
            extensions = bytes(main.take(MAX_EXTENSION_BYTES))
            other.take(offset)
        stored = other.take(length)
        _refuse_short(stored, length)
        other.refuse_more(offset + length)
        geometry.warnings.extend(_text_warnings(header, extensions))
        array = np.frombuffer(stored, dtype).reshape(geometry.shape, order="F")
        slope, intercept = _scaling(header, geometry.warnings)
        voxels = _scaled(array, slope, intercept, reading, geometry.warnings)
        return Volume(geometry, voxels, slope, intercept, dtype.name)

    def _read_mgh(self, source: ByteSource, reading: Reading) -> Volume:
        """Read a FreeSurfer volume."""
        header, dtype = parse_mgh(source)
        geometry = geometry_of(header, reading.assume_orientation)
        _refuse_large(geometry.shape, dtype)
        length = math.prod(geometry.shape) * dtype.itemsize
        stored = source.take(length)
        _refuse_short(stored, length)
        source.take(MAX_EXTENSION_BYTES)  # what FreeSurfer writes behind them, and the checksum
        array = np.frombuffer(stored, dtype).reshape(geometry.shape, order="F")
        voxels = _scaled(array, 1.0, 0.0, reading, geometry.warnings)
        return Volume(geometry, voxels, 1.0, 0.0, dtype.name)


def read_volume(path: Path, reading: Reading = Reading()) -> Volume:
    """Open, read and check a scan, see `ScanFile`."""
    with ScanFile(path) as file:
        return file.read(reading)


def scan_hash(path: Path) -> str:
    """Hash a scan's bytes as `ScanFile.content_hash` does; opens what was not hashed before."""
    return _joint_hash([hash_file(name) for name in scan_files(path)])


def scan_files(path: Path) -> list[Path]:
    """The files of a scan: one, or the .hdr and the .img of a pair."""
    return list(dict.fromkeys((header_file(path), voxel_file(path))))


def _joint_hash(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else digest(hashes)


def _stored_type(header: Any) -> np.dtype:
    code = int(header["datatype"])
    if code not in NUMBERS:
        kind = OTHER_KINDS.get(code, f"an unknown type of voxel (code {code})")
        raise ScanError(f"holds {kind}, not one number a voxel", "Convert it to float32")
    return header.get_data_dtype()


def _places(
    header: Any, shape: tuple[int, int, int], dtype: np.dtype, header_size: int, *, single: bool
) -> tuple[int, int]:
    """Offset and length of the voxels in their file, in bytes."""
    offset = float(header["vox_offset"])
    first = header_size + 4 if single else 0
    length = math.prod(shape) * dtype.itemsize
    if not first <= offset <= first + MAX_EXTENSION_BYTES or offset != int(offset):
        raise ScanError(f"says that its voxels begin at byte {offset:g}", "Export it again")
    _refuse_large(shape, dtype)
    return int(offset), length


def _refuse_large(shape: tuple[int, int, int], dtype: np.dtype) -> None:
    if (needed := (dtype.itemsize + 4) * math.prod(shape)) > MAX_BYTES:
        raise ScanError(
            f"promises {' × '.join(map(str, shape))} voxels of {dtype.itemsize} bytes, which take "
            f"{needed / 2**20:,.0f} MiB; {MAX_BYTES // 2**20} are allowed",
            "Crop or resample it, or correct its header",
        )


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


def _scaled(
    stored: np.ndarray, slope: float, intercept: float, reading: Reading, warnings: Warnings
) -> np.ndarray:
    """Turn stored numbers into intensities."""
    if stored.min() == stored.max():
        raise ScanError(f"is constant ({stored.flat[0] * slope + intercept:g})", "Leave it out")
    voxels = np.empty(stored.shape, dtype=np.float32, order="F")
    low, high, num_nan = np.inf, -np.inf, 0
    for index in range(stored.shape[2]):  # a slice at a time: float64 costs memory
        with np.errstate(over="ignore", invalid="ignore"):
            plane = stored[..., index]
            if (slope, intercept) != (1, 0):
                plane = plane.astype(np.float64) * slope + intercept
            voxels[..., index] = plane
        known = voxels[..., index]
        if (is_nan := np.isnan(known)).any():
            if not reading.fill_nan:
                raise ScanError(
                    f"holds NaN or infinite voxels (slice {index})",
                    "Leave it out, or set --data.preprocessing.fill_nan=true, which gives NaN its "
                    "smallest intensity",
                )
            num_nan += int(is_nan.sum())
            known = known[~is_nan]
        if not np.isfinite(known).all():
            beyond = np.isfinite(plane[~is_nan]).all()
            what = "numbers beyond float32" if beyond else "NaN or infinite voxels"
            raise ScanError(f"holds {what} (slice {index})", "Repair it or leave it out")
        low, high = known.min(initial=low), known.max(initial=high)
    if low >= high:
        raise ScanError(f"is constant ({low if low == high else np.nan:g})", "Leave it out")
    if num_nan:
        np.nan_to_num(voxels, copy=False, nan=low)
        share = f"{100 * num_nan / voxels.size:.2g} %"
        what = f"has {num_nan:,} NaN voxels ({share}), filled with its smallest intensity"
        warnings.append((what, "See that they lie outside of the body"))
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
