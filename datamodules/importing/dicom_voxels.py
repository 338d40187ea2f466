"""Read the voxels of a DICOM stack: pydicom where nothing or little is packed, else SimpleITK."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from datamodules.importing.dicom_dataset import read_dataset, values_of
from datamodules.importing.dicom_header import Picture
from datamodules.importing.dicom_packed import (
    PIXEL_KEYWORDS,
    Unpacker,
    packed_frames,
    unpack_each,
)

OF_PYDICOM = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)
LAYOUT = {keyword: Tag(keyword) for keyword in [*PIXEL_KEYWORDS, "NumberOfFrames"]}


def read_voxels(ordered: Sequence[Picture], unpacker: Unpacker) -> np.ndarray:
    """Read the voxels of slices in order, with each slice's own slope and intercept applied.

    Args:
        ordered: The slices.
        unpacker: Reads what pydicom does not.

    Returns:
        (columns, rows, slices); int16 where that loses nothing, else float32.

    Raises:
        ValueError: If a slice's voxels are missing, cut off, or packed in an unknown way.
    """
    rows, columns = ordered[0].size
    voxels = np.zeros((columns, rows, len(ordered)), np.int16, order="F")
    places: dict[Path, list[int]] = defaultdict(list)
    for index, picture in enumerate(ordered):
        places[picture.path].append(index)
    for indices in places.values():  # each file is read once, wherever its frames lie
        frames, scaled = _decode(ordered[indices[0]], unpacker)
        for index in indices:
            picture = ordered[index]
            plane = frames[picture.frame].T  # (columns, rows)
            if not scaled and (picture.slope, picture.intercept) != (1, 0):
                plane = plane.astype(np.float64) * picture.slope + picture.intercept
            if plane.dtype.kind == "f" and not np.isfinite(plane).all():
                raise ValueError(f"voxels that are not finite in {picture.path.name!r}")
            if voxels.dtype == np.int16 and not _fits_int16(plane):
                voxels = voxels.astype(np.float32)
            voxels[..., index] = plane
    return voxels


def _decode(picture: Picture, unpacker: Unpacker) -> tuple[np.ndarray, bool]:
    """Voxels of one file, (frames, rows, columns), and whether they are rescaled already."""
    name = repr(picture.path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on every oddity
            dataset = read_dataset(picture.path, voxels=True)
            syntax = dataset.file_meta.TransferSyntaxUID
            if syntax in OF_PYDICOM:
                layout = values_of(dataset, LAYOUT)
                frames = _native(dataset, layout).reshape(-1, *picture.size)
                spare = 0 if syntax == RLELossless else len(dataset.PixelData) - frames.nbytes
            else:
                packed = packed_frames(dataset)
    except Exception as error:  # pydicom raises anything for a corrupt file
        raise ValueError(f"the voxels of {name} are cut off or corrupt. Copy it again") from error
    if syntax in OF_PYDICOM:
        if spare >= frames[0, 0].nbytes:
            raise ValueError(
                f"{name} holds {spare} bytes more than Rows × Columns. Export it again"
            )
        return _used_bits(frames, layout), False
    alone = len(packed) > 1
    try:
        each = unpack_each(dataset, packed, unpacker) if alone else [unpacker(picture.path)]
    except (RuntimeError, MemoryError) as error:  # or the process broke down
        raise ValueError(
            f"{name} is corrupt, or packed ({syntax.name[:60]!r}) as nothing here unpacks. Install "
            "dcmtk or gdcm and unpack the series first: dcmdjpeg IN OUT, or gdcmconv --raw IN OUT"
        ) from error
    if any(frame.shape != (1, *picture.size) for frame in each):
        raise ValueError(f"{name} is packed, and not one picture. Install gdcm: gdcmconv --raw")
    return np.concatenate(each), not alone


def _native(dataset: FileDataset, layout: dict[str, Any]) -> np.ndarray:
    """All voxels; the usual ones without pydicom's many checks, which take longer than the rest."""
    little = dataset.file_meta.TransferSyntaxUID in OF_PYDICOM[:2]
    usual = (layout["BitsAllocated"], layout["SamplesPerPixel"]) == (16, 1)
    kind = {0: "<u2", 1: "<i2"}.get(layout["PixelRepresentation"])
    if not little or not usual or kind is None:
        return dataset.pixel_array
    count = layout["Rows"] * layout["Columns"] * int(layout["NumberOfFrames"] or 1)
    return np.frombuffer(dataset.PixelData, kind, count)


def _fits_int16(plane: np.ndarray) -> bool:
    limits = np.iinfo(np.int16)
    low, high = float(plane.min()), float(plane.max())
    whole = plane.dtype.kind != "f" or np.array_equal(plane, plane.round())
    return limits.min <= low and high <= limits.max and whole


def _used_bits(frames: np.ndarray, layout: dict[str, Any]) -> np.ndarray:
    """Cut off the bits that are not in use: old scanners keep overlays in them."""
    allocated, used = int(layout["BitsAllocated"]), int(layout["BitsStored"])
    high = used - 1 if layout["HighBit"] is None else int(layout["HighBit"])
    if frames.dtype.kind == "f" or allocated != 8 * frames.dtype.itemsize or used > high + 1:
        return frames
    return (frames << (allocated - 1 - high)) >> (allocated - used)
