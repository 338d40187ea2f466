"""A synthetic cohort: the same files and the same voxels for every way to read them."""

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from datamodules.preprocessing import Preprocessing


def write_cohort(folder: Path, num_scans: int, size: int, suffix: str = ".nii.gz") -> Path:
    """Write cubes of whole numbers, blurred noise as smooth as an MRI, and their table.

    Every number is exact in float16, so that the cache holds what the files hold. A folder that
    has its table already is left as it is.
    """
    table = folder / "cohort.csv"
    if table.is_file():
        return table
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["patient_id,image,label"]
    for number in range(num_scans):
        noise = np.random.default_rng((size, number)).standard_normal((size,) * 3, np.float32)
        smooth = ndimage.gaussian_filter(noise, 1.5)
        voxels = np.rint(1000 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.int16)
        image = nib.Nifti1Image(voxels, np.eye(4))
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"p{number:05d}{suffix}")
        lines.append(f"p{number:05d},p{number:05d}{suffix},{'healthy' if number % 2 else 'ill'}")
    table.write_text("\n".join(lines) + "\n")
    return table


def as_it_is(size: int) -> Preprocessing:
    """Preprocessing that leaves these cubes as they are."""
    return Preprocessing(spatial_shape=(size, size, size), window_percentiles=None)
