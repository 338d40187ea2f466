"""FreeSurfer's volumes, .mgz and .mgh: their header as that of a NIfTI file."""

import struct
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

from datamodules.reading.nifti_bytes import ByteSource, ScanError

HEADER_BYTES = 284  # the voxels follow
TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2"}
USED = MGHHeader._hdrdtype.itemsize  # of the header
NO_FOOTER = bytes(MGHHeader._ftrdtype.itemsize)


def parse_mgh(source: ByteSource) -> tuple[Any, np.dtype]:
    """Read the header of a FreeSurfer volume.

    Args:
        source: The file, at its beginning; it is left where the voxels begin.

    Returns:
        The same as a NIfTI header, and the type of the voxels.
    """
    start = bytes(source.take(HEADER_BYTES))
    if len(start) < HEADER_BYTES:
        raise ScanError("is truncated inside its header", "Copy it again")
    version, *shape, num_volumes, code, _, knows_axes = struct.unpack(">7ih", start[:30])
    if version != 1 or code not in TYPES:
        raise ScanError("is no FreeSurfer volume, whatever its name is", "Convert it to NIfTI")
    if min(shape) < 1 or max(shape) > np.iinfo(np.int16).max or num_volumes != 1:
        sizes = " × ".join(map(str, (*shape, num_volumes)))
        raise ScanError(f"has the shape {sizes}, not that of one 3D volume", "Split or replace it")
    told = MGHHeader(start[:USED] + NO_FOOTER, check=False)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.dtype(TYPES[code]).newbyteorder("="))
    header.set_data_shape(shape)
    header["pixdim"][1:4] = told["delta"]
    header["xyzt_units"] = 2  # mm
    if knows_axes:
        header.set_sform(told.get_affine(), 1)
    return header, np.dtype(TYPES[code])
