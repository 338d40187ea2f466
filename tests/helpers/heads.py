"""Pictures that no two people share, small, for tests that look for copies of scans."""

import nibabel as nib
import numpy as np
from scipy import ndimage

AFFINE = np.diag([2.0, 2.2, 2.5, 1.0])


def head(seed):
    """A smooth picture that no other seed has, with air around it, in whole numbers."""
    detail = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(22, 26, 24)), 1.3)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in detail.shape), indexing="ij")
    inside = np.sum(np.square(places), axis=0) < 0.9
    return np.where(inside, 600 + 1500 * detail, 20).astype(np.int16)


def nifti(voxels, affine=AFFINE, dtype=None):
    image = nib.Nifti1Image(voxels, affine)
    if dtype is not None:
        image.set_data_dtype(dtype)
    return image
