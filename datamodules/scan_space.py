"""Where the voxels of a preprocessed volume are in its scan, and maps put back onto the scan."""

import nibabel as nib
import numpy as np
import torchio as tio
from jaxtyping import Float
from nibabel.processing import resample_from_to

from datamodules.batches.warp import rotated_extent, turning_axes
from datamodules.preprocessing import ROUNDING, Preprocessing
from datamodules.reading.cohort_table import Scan
from datamodules.reading.mask import box_of, open_mask
from datamodules.reading.nifti import read_volume
from datamodules.reading.one_grid import open_image
from datamodules.resampling import resample


def volume_affine(scan: Scan, preprocessing: Preprocessing) -> Float[np.ndarray, "4 4"]:
    """Compute the affine of the preprocessed volume, to the mm of the scan's own file.

    It repeats where `preprocess` puts voxels: resampling keeps the centre, cropping and padding
    move the first voxel.

    Args:
        scan: The scan; of several contrasts the first that is there has the grid.
        preprocessing: What was done to it.
    """
    wanted = preprocessing
    assert wanted.spatial_shape is not None
    path = scan.images[0].path
    image, geometry = open_image(path, wanted.reading)
    assumed = wanted.assume_spacing_mm
    spacing = np.array(image.spacing if geometry.spacing_known or assumed is None else assumed)
    shape, steps, first = np.array(image.spatial_shape), np.ones(3), np.zeros(3)
    mask = None
    if wanted.roi_margin_mm is not None:
        mask = open_mask(scan.mask_path, image, path, wanted.reading)
    if wanted.spacing_mm is not None:
        steps = np.array(wanted.spacing_mm) / spacing
        new = np.maximum(np.floor(shape / steps + ROUNDING), 1).astype(int)
        if mask is not None:
            mask = resample(mask, new, steps, anti_alias=wanted.anti_alias)
        first = (shape - 1) / 2 - (new - 1) / 2 * steps
        shape, spacing = new, np.array(wanted.spacing_mm)
    if mask is not None:
        box = box_of(mask, np.array(wanted.roi_margin_mm) / spacing)
        first = first + steps * [side.start for side in box]
        shape = np.array([side.stop - side.start for side in box])
    if wanted.fit == "resize":
        extent = shape * spacing
        turned = rotated_extent(extent, wanted.margin_degrees * turning_axes(shape))
        air = (turned - extent) / spacing
        padded = shape + 2 * np.round(air / 2)
        more = padded / wanted.spatial_shape
        corner = (shape - 1) / 2 - (np.array(wanted.spatial_shape) - 1) / 2 * more
        first, steps = first + steps * corner, steps * more
    else:
        # torchio's own rule for odd numbers
        cut = tio.CropOrPad(wanted.spatial_shape)(tio.ScalarImage(tensor=np.zeros((1, *shape))))
        first = first + steps * cut.affine[:3, 3]
    voxel = np.diag([*steps, 1.0])
    voxel[:3, 3] = first
    return np.asarray(image.affine) @ voxel


def on_scan(
    values: Float[np.ndarray, "w h d"], scan: Scan, preprocessing: Preprocessing
) -> nib.Nifti1Image:
    """Interpolate values of a preprocessed volume at the voxels of the scan's file, 0 outside.

    Args:
        values: One number for each voxel of the volume.
        scan: The scan.
        preprocessing: What was done to it.
    """
    its = read_volume(scan.images[0].path, preprocessing.reading).geometry
    small = nib.Nifti1Image(values.astype(np.float32), volume_affine(scan, preprocessing))
    image = resample_from_to(small, (its.shape, its.affine), order=1)
    image.header.set_xyzt_units("mm")
    return image
