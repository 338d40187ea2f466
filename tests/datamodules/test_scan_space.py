import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading.cohort_table import Scan
from datamodules.scan_space import on_scan, volume_affine

SHAPE = (17, 20, 14)
SETTINGS = {
    "cropped": {"spatial_shape": (12, 23, 12)},
    "resampled": {"spatial_shape": (16, 15, 20), "spacing_mm": (2.2, 1.7, 1.9)},
    "resized": {"spatial_shape": (12, 14, 10), "fit": "resize", "margin_degrees": 10.0},
    "cut": {"spatial_shape": (14, 12, 12), "spacing_mm": (1.5, 2.0, 2.0), "roi_margin_mm": 3.0},
}
AFFINE = np.array([[0, 1.4, 0.1, -20], [-2.0, 0, 0, 31], [0, 0.1, -2.5, 12], [0, 0, 0, 1.0]])


@pytest.fixture
def blob(write_scan):
    """A scan whose axes point to P, R, I, with a blob; its mask; the blob's voxel and place."""
    place = np.array([9.0, 8.0, 6.0])
    away = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - place
    voxels = np.exp(-np.square(away @ AFFINE[:3, :3].T).sum(-1) / 30).astype(np.float32)
    path = write_scan("blob.nii.gz", voxels, AFFINE)
    mask = write_scan("mask.nii.gz", (voxels > 0.2).astype(np.float32), AFFINE)
    return Scan("p", "blob.nii.gz", path, mask_path=mask), place


@pytest.mark.parametrize("name", SETTINGS)
def test_a_blob_comes_back_to_its_place_in_the_file(blob, name):
    scan, place = blob
    settings = Preprocessing(**SETTINGS[name], window_percentiles=None)
    volume = preprocess(scan.path, settings, scan.mask_path).volume[0].astype(float)
    image = on_scan(np.where(volume > 0.2, volume, 0), scan, settings)
    assert image.shape == SHAPE
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert nib.load(scan.path).get_fdata().shape == image.shape
    centre = ndimage.center_of_mass(image.get_fdata())
    np.testing.assert_allclose(centre, place, atol=0.25)
    # the middle of the blob in the volume, by the volume's affine, in mm
    middle = ndimage.center_of_mass(np.where(volume > 0.2, volume, 0))
    found = volume_affine(scan, settings) @ [*middle, 1]
    np.testing.assert_allclose(found, AFFINE @ [*place, 1], atol=0.4)


@pytest.mark.parametrize("name", ["cropped", "resampled", "resized"])
def test_the_affine_tells_the_millimetres_that_ramps_have_after_preprocessing(write_scan, name):
    settings = Preprocessing(**SETTINGS[name], window_percentiles=None)
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    mm = indices @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    inner, found = np.s_[5:-5, 5:-5, 5:-5], []
    for axis in range(3):
        path = write_scan(f"{axis}.nii.gz", mm[..., axis].astype(np.float32), AFFINE)
        found.append(preprocess(path, settings).volume[0][inner])
    scan = Scan("p", "0.nii.gz", path)
    shape = settings.spatial_shape
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[inner]
    affine = volume_affine(scan, settings)
    expected = places @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(np.stack(found, -1), expected, atol=0.05)  # float16
