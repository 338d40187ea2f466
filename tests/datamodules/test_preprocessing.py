import warnings
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio

from datamodules.augmentation import Augmentation
from datamodules.batches.warp import voxel_map, warp
from datamodules.changes import make_copies
from datamodules.cohort import Cohort
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading.cohort_table import Columns
from datamodules.resampling import resample

PAPER = {"window_percentiles": (2.5, 97.5), "window_over": "everything"}
SETTINGS = [
    Preprocessing(spatial_shape=(10, 14, 9), **PAPER),
    Preprocessing(spatial_shape=(10, 14, 9), fit="resize", **PAPER),
    Preprocessing(spacing_mm=(1.5, 1.0, 2.0), spatial_shape=(8, 8, 8), **PAPER),
    Preprocessing(spatial_shape=(12, 12, 12), window_percentiles=None),
    Preprocessing(spacing_mm=(1.7, 0.8, 1.0), spatial_shape=(6, 6, 6), fit="resize", **PAPER),
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
            pad = tio.CropOrPad(preprocessing.spatial_shape, padding_mode="minimum")
            image = pad(image)
        stored = np.moveaxis(cohort.volumes.data[row], 1, -1).astype(np.float32)
        np.testing.assert_allclose(stored, image.data, atol=1e-3)  # as float16
        np.testing.assert_allclose(cohort.volumes.spacings_mm[row], image.spacing)


def test_the_window_is_that_of_the_foreground_and_what_it_clips_is_kept(write_scan, tmp_path):
    voxels = np.zeros((20, 20, 20), dtype=np.float32)
    voxels[8:14, 8:14, 8:14] = np.random.default_rng(0).uniform(100, 1000, (6, 6, 6))
    path = write_scan("roi.nii.gz", voxels)  # 3 % of the voxels
    sound, paper = (
        preprocess(path, Preprocessing(spatial_shape=(20, 20, 20), **options))
        for options in ({}, PAPER)
    )
    assert (sound.volume == 1).sum() <= 2
    assert sound.clipped < 0.02
    assert paper.clipped == pytest.approx(0.025 * 8000 / 216, rel=0.2)
    (tmp_path / "roi.csv").write_text("patient_id,image\na,roi.nii.gz\n")
    settings = Preprocessing(spatial_shape=(20, 20, 20), **PAPER)
    cohort = Cohort(str(tmp_path / "roi.csv"), Columns(), settings, str(tmp_path / "cache"))
    assert cohort.volumes.clipped.tolist() == [paper.clipped]


def test_64_by_128_by_23_voxels_are_resized_to_38_by_76_by_21(write_scan):
    path = write_scan("flat.nii.gz", shape=(64, 128, 23))  # TorchIO's Resize rounds this
    settings = Preprocessing(spatial_shape=(38, 76, 21), fit="resize")
    assert preprocess(path, settings).volume.shape == (1, 38, 76, 21)


def test_a_spacing_coarser_than_the_scan_leaves_a_voxel(write_scan):
    path = write_scan("thin.nii.gz", shape=(12, 12, 3))
    settings = Preprocessing(spacing_mm=(2, 2, 7), spatial_shape=(6, 6, 2))
    assert preprocess(path, settings).volume.shape == (1, 6, 6, 2)


def test_voxel_sizes_rounded_by_the_header_lose_no_voxel(write_scan):
    path = write_scan("scan.nii.gz", affine=np.diag([0.9, 0.9, 0.9, 1]), shape=(25, 25, 25))
    settings = Preprocessing(spacing_mm=(0.9, 0.9, 0.9), spatial_shape=(25, 25, 25))
    assert preprocess(path, settings).volume[0, 0].any()  # no row of padding


@pytest.mark.parametrize("fit", ["crop_or_pad", "resize"])
@pytest.mark.parametrize("spacing_mm", [None, (0.7, 1.3, 0.9)])
def test_raw_scans_are_padded_with_air_whatever_that_is(write_scan, fit, spacing_mm):
    voxels = np.full((12, 12, 12), -1024, dtype=np.float32)
    voxels[3:9, 3:9, 3:9] = np.random.default_rng(0).uniform(-100, 300, (6, 6, 6))
    settings = Preprocessing(spacing_mm, (20, 10, 20), fit, window_percentiles=None)
    volume = preprocess(write_scan("ct.nii.gz", voxels), settings).volume
    border = np.concatenate([volume[:, [0, -1]].ravel(), volume[..., [0, -1]].ravel()])
    assert set(border.tolist()) == {-1024}


def test_augmented_copies_of_raw_scans_are_filled_with_air():
    volume = torch.full((1, 1, 10, 10, 10), -1024.0)
    volume[..., 3:7, 3:7, 3:7] = 100
    turn = voxel_map(0.7, np.array([20.0, 0, 30]), np.ones(3), np.zeros(3), np.ones(3), [10] * 3)
    assert warp(volume, torch.from_numpy(turn)[None])[0, 0, 0].unique().tolist() == [-1024]
    settings = Augmentation(elastic_mm=1, degrees=30, translation_mm=3)
    copies = make_copies(volume.expand(8, -1, -1, -1, -1), np.ones((8, 3)), settings, range(8))
    assert -1024.01 < copies.min() <= -1023.99
    assert (copies[:, 0, [0, -1]] < -1000).float().mean() > 0.9


@pytest.mark.parametrize("how", [{"spacing_mm": (3, 1, 1)}, {"fit": "resize"}])
def test_anti_aliasing_is_done_wherever_a_scan_gets_coarser(write_scan, how):
    path = write_scan(shape=(24, 12, 12))
    settings = Preprocessing(spatial_shape=(8, 12, 12), window_percentiles=None, **how)
    plain, averaged = (
        preprocess(path, replace(settings, anti_alias=on)).volume for on in (False, True)
    )
    assert plain.std() == pytest.approx(np.sqrt(1 / 12), rel=0.05)  # uniform noise, every third
    weights = np.array([1, 2, 3, 2, 1]) / 9
    expected = np.sqrt(1 / 12) * np.linalg.norm(weights)
    assert averaged[:, 1:-1].std() == pytest.approx(expected, rel=0.05)


def test_a_warning_that_was_not_meant_neither_stops_nor_gets_another_reason(
    write_scan, monkeypatch
):
    def warn(*arguments, **options):
        warnings.warn("unrelated", RuntimeWarning, stacklevel=2)
        return resample(*arguments, **options)

    monkeypatch.setattr("datamodules.preprocessing.resample", warn)
    settings = Preprocessing(spatial_shape=(8, 8, 8), fit="resize")
    with pytest.warns(RuntimeWarning, match="unrelated"):
        assert preprocess(write_scan(), settings).volume.shape == (1, 8, 8, 8)


@pytest.mark.parametrize("name", ["window_over", "anti_alias", "assume_orientation"])
def test_a_checkpoint_older_than_a_setting_was_made_as_it_was_then(write_cohort, tmp_path, name):
    old = asdict(Preprocessing(spatial_shape=(8, 8, 8), **PAPER))
    del old[name]
    assert asdict(Preprocessing.made_with(old)) == asdict(
        Preprocessing(spatial_shape=(8, 8, 8), **PAPER)
    )
    now = Preprocessing(spatial_shape=(8, 8, 8), window_percentiles=(2.5, 97.5))
    cohort = Cohort(str(write_cohort(1)), Columns(), now, str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"preprocessing\.window_over everything, not foreground"):
        cohort.refuse_other_preprocessing(old)


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
    volume = preprocess(write_scan(), Preprocessing(spatial_shape=(12, 12, 12), **PAPER)).volume
    assert volume.min() == 0
    assert volume.max() == 1
    assert ((volume > 0) & (volume < 1)).mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (np.full((8, 8, 8), 3.0), "is constant"),
        (np.eye(8)[:, :, None] * np.eye(8)[None], "one intensity, 0, at its percentiles 2.5"),
        (np.where(np.arange(512).reshape(8, 8, 8) == 7, np.nan, 1.0), "NaN or infinite"),
        (np.random.default_rng(0).random((8, 8, 8, 2)), "has the shape"),
    ],
)
def test_a_scan_without_a_picture_is_refused_by_name(write_scan, voxels, words):
    path = write_scan("bad.nii.gz", voxels.astype(np.float32))
    with pytest.raises(ValueError, match=rf"bad\.nii\.gz .*{words}"):
        preprocess(path, SETTINGS[0])


def test_an_unreadable_file_is_refused_by_name(tmp_path):
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(b"this is not a scan")
    with pytest.raises(ValueError, match=r"Scan .*cut\.nii\.gz is no NIfTI file"):
        preprocess(path, SETTINGS[0])


def test_raw_intensities_beyond_float16_name_the_fix(write_scan):
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
    assert fitted.mean[0] == pytest.approx(chosen.mean(), rel=1e-6)
    assert fitted.divisor[0] == pytest.approx(spread(chosen), rel=1e-6)
    assert fitted.divisor[0] < spread(voxels.astype(np.float64))
    scaled = fitted.scale(torch.from_numpy(voxels[[0, 2]]))
    assert abs(scaled.mean()) < 1e-3
    assert spread(scaled.double().numpy()) == pytest.approx(1, rel=1e-3)


def test_scans_whose_window_clips_their_tissue_are_counted(write_scan, tmp_path):
    generator = np.random.default_rng(0)
    for number, side in enumerate((5, 5, 11)):
        voxels = np.zeros((12, 12, 12), dtype=np.float32)
        voxels[:side, :side, :side] = generator.uniform(100, 1000, (side,) * 3)
        write_scan(f"s{number}.nii.gz", voxels)
    (tmp_path / "roi.csv").write_text(
        "patient_id,image\n" + "".join(f"p{n},s{n}.nii.gz\n" for n in range(3))
    )

    def words(**options):
        settings = Preprocessing(spatial_shape=(12, 12, 12), **options)
        cohort = Cohort(str(tmp_path / "roi.csv"), Columns(), settings, str(tmp_path))
        return cohort.volumes.much_clipped()

    assert words() == ""
    said = words(window_percentiles=(2.5, 97.5), window_over="everything")
    assert "more than 2 % of the foreground of 3 of 3 scans" in said
    said = words(window_percentiles=(0.5, 99.0), window_over="everything")
    assert "2 of 3 scans (median of these: 1" in said
    assert words(window_percentiles=None) == ""


@pytest.mark.parametrize("percentiles", [(99.5, 0.5), (-1, 99), (0, 101), (50, 50)])
def test_percentiles_that_make_no_window_are_refused(percentiles):
    with pytest.raises(ValueError, match="the lower first"):
        Preprocessing(window_percentiles=percentiles)


@pytest.mark.parametrize("fit", ["crop_or_pad", "resize"])
def test_with_a_margin_a_rotation_cuts_off_no_corner(write_scan, tmp_path, fit):
    voxels = np.zeros((30, 24, 20), dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        voxels[tuple(slice(-4, None) if end else slice(0, 4) for end in corner)] = 1.0
    write_scan("corners.nii.gz", voxels)
    (tmp_path / "corners.csv").write_text("patient_id,image\na,corners.nii.gz\n")

    def share_kept(margin_degrees):
        settings = Preprocessing(
            fit=fit, window_percentiles=None, margin_degrees=margin_degrees, voxel_budget=32**3
        )
        cohort = Cohort(str(tmp_path / "corners.csv"), Columns(), settings, str(tmp_path / "cache"))
        cohort.plan()
        volume = torch.from_numpy(np.moveaxis(cohort.volumes.data[0], 1, -1).astype(np.float32))
        turn = Augmentation(degrees=10, translation_mm=0)
        spacings = np.tile(cohort.volumes.spacings_mm, (8, 1))
        copies = make_copies(volume.expand(8, -1, -1, -1, -1), spacings, turn, range(8))
        return min(float(copy.sum() / volume.sum()) for copy in copies)

    assert share_kept(10.0) > 0.97
    assert share_kept(0.0) < 0.9
