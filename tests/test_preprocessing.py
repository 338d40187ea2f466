import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio

from datamodules.cohort import Cohort
from datamodules.cohort_table import Columns
from datamodules.preprocessing import Preprocessing, preprocess

SETTINGS = [
    Preprocessing(spatial_shape=(10, 14, 9)),
    Preprocessing(spatial_shape=(10, 14, 9), fit="resize"),
    Preprocessing(spacing_mm=(1.5, 1.0, 2.0), spatial_shape=(8, 8, 8)),
    Preprocessing(spatial_shape=(12, 12, 12), window_percentiles=None),
    Preprocessing(spatial_shape=(6, 6, 6), fit="resize", window_percentiles=(0.5, 99.5)),
]


@pytest.mark.parametrize("preprocessing", SETTINGS)
def test_the_cached_volume_equals_the_plain_torchio_path(write_cohort, tmp_path, preprocessing):
    table = write_cohort(3)
    cohort = Cohort(str(table), Columns(), preprocessing, str(tmp_path / "cache"))
    for row, scan in enumerate(cohort.scans):
        image = tio.ToCanonical()(tio.ScalarImage(scan.path))
        if preprocessing.spacing_mm:
            image = tio.Resample(preprocessing.spacing_mm)(image)
        if preprocessing.window_percentiles:
            image = tio.RescaleIntensity(percentiles=preprocessing.window_percentiles)(image)
        if preprocessing.fit == "resize":
            image = tio.Resize(preprocessing.spatial_shape)(image)
        else:
            image = tio.CropOrPad(preprocessing.spatial_shape)(image)
        expected = image.data.numpy().astype(np.float16)
        np.testing.assert_array_equal(np.moveaxis(cohort.volumes.data[row], 1, -1), expected)
        np.testing.assert_allclose(cohort.volumes.spacings_mm[row], image.spacing)


@pytest.mark.parametrize("orientation", ["LPS", "PSR", "ILA"])
def test_a_reoriented_copy_becomes_the_same_volume(write_scan, orientation):
    path = write_scan("ras.nii.gz", shape=(9, 10, 11))
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    other = path.with_name("other.nii.gz")
    nib.save(image.as_reoriented(turn), other)
    assert nib.aff2axcodes(nib.load(other).affine) == tuple(orientation)
    settings = Preprocessing(spacing_mm=(1, 1.2, 0.9), spatial_shape=(8, 8, 8))
    np.testing.assert_allclose(
        preprocess(path, settings)[0], preprocess(other, settings)[0], atol=1e-3
    )


def test_most_voxels_lie_inside_the_window(write_scan):
    volume, _ = preprocess(write_scan(), Preprocessing(spatial_shape=(12, 12, 12)))
    assert volume.min() == 0
    assert volume.max() == 1
    assert ((volume > 0) & (volume < 1)).mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (np.full((8, 8, 8), 3.0), "is constant"),
        (np.eye(8)[:, :, None] * np.eye(8)[None], "one intensity between"),
        (np.where(np.arange(512).reshape(8, 8, 8) == 7, np.nan, 1.0), "NaN or infinite"),
        (np.random.default_rng(0).random((8, 8, 8, 2)), "has the shape"),
    ],
)
def test_a_scan_without_a_picture_is_refused_by_name(write_scan, voxels, words):
    path = write_scan("bad.nii.gz", voxels.astype(np.float32))
    with pytest.raises(ValueError, match=rf"bad\.nii\.gz .*{words}"):
        preprocess(path, SETTINGS[0])


def test_an_unreadable_file_is_refused_by_name(tmp_path):
    path = tmp_path / "torn.nii.gz"
    path.write_bytes(b"this is not a scan")
    with pytest.raises(ValueError, match=r"Scan .*torn\.nii\.gz is no NIfTI file"):
        preprocess(path, SETTINGS[0])


def test_raw_intensities_beyond_float16_name_the_mend(write_scan):
    path = write_scan(voxels=np.linspace(0, 1e6, 512).reshape(8, 8, 8).astype(np.float32))
    with pytest.raises(ValueError, match="window_percentiles"):
        preprocess(path, Preprocessing(spatial_shape=(8, 8, 8), window_percentiles=None))


@pytest.mark.parametrize("divide_by", ["range", "sd"])
def test_the_fitted_intensity_is_that_of_the_given_rows(write_cohort, tmp_path, divide_by):
    settings = Preprocessing(
        spatial_shape=(12, 12, 12), window_percentiles=None, divide_by=divide_by
    )
    cohort = Cohort(str(write_cohort(4)), Columns(), settings, str(tmp_path / "cache"))
    voxels = np.stack([np.moveaxis(cohort.volumes.data[row], 1, -1) for row in range(4)])
    fitted = cohort.fit_intensity(np.array([0, 2]))
    chosen = voxels[[0, 2]].astype(np.float64)
    spread = {"range": np.ptp, "sd": np.std}[divide_by]
    assert fitted.mean == pytest.approx(chosen.mean(), rel=1e-6)
    assert fitted.divisor == pytest.approx(spread(chosen), rel=1e-6)
    assert fitted.divisor < spread(voxels.astype(np.float64))
    scaled = fitted.scale(torch.from_numpy(voxels[[0, 2]]))
    assert abs(scaled.mean()) < 1e-3
    assert spread(scaled.double().numpy()) == pytest.approx(1, rel=1e-3)
