from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from datamodules.checks.scan_check import check_scan
from datamodules.cohort import Cohort
from datamodules.fingerprint import (
    CPU_BUDGET,
    GPU_BUDGET,
    Fingerprint,
    cohort_fingerprint,
    default_budget,
    plan_preprocessing,
)
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading.cohort_table import Columns
from datamodules.reading.nifti import Reading

SETTINGS = Preprocessing(voxel_budget=40**3)


def _fingerprint(shapes, spacings=(1, 1, 1), known=True, doubtful=False):
    shapes = np.array(shapes)
    spacings = np.array(np.broadcast_to(spacings, shapes.shape), dtype=float)
    known, doubtful = (np.broadcast_to(flags, len(shapes)) for flags in (known, doubtful))
    return Fingerprint(shapes, spacings, known, doubtful)


def _read(path, cache_dir, orientation=None):
    facts = check_scan(path, Reading(orientation), cache_dir).facts
    assert facts is not None
    return cohort_fingerprint([facts])


def test_headers_are_read_in_ras_order(write_scan, tmp_path):
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -2, -3, 4, 1  # axes P, I, R
    path = write_scan(affine=affine, shape=(5, 6, 7))
    fingerprint = _read(path, tmp_path)
    assert fingerprint.shapes.tolist() == [[7, 5, 6]]
    assert fingerprint.spacings_mm.tolist() == [[4, 2, 3]]
    assert fingerprint.spacing_known.tolist() == [True]


@pytest.mark.parametrize(
    ("forms", "unit", "zooms", "known", "doubtful"),
    [
        ((2, 0), None, (1, 1, 1), True, True),  # what nibabel writes for np.eye(4)
        ((0, 1), None, (1, 1, 1), True, True),
        ((1, 1), "mm", (1, 1, 1), True, False),
        ((0, 0), None, (1, 1, 1), False, True),
        ((0, 0), "mm", (1, 1, 1), True, False),
        ((0, 0), None, (1, 1, 3), True, False),
        ((2, 0), None, (2, 2, 2), True, False),
    ],
)
def test_a_voxel_size_is_known_unless_nothing_in_the_header_says_it(
    tmp_path, forms, unit, zooms, known, doubtful
):
    image = nib.Nifti1Image(np.random.default_rng(0).random((6, 6, 6), np.float32), None)
    image.header.set_zooms(zooms)
    affine = np.diag([*zooms, 1.0])
    image.set_sform(affine, code=forms[0])
    image.set_qform(affine, code=forms[1])
    if unit:
        image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    fingerprint = _read(tmp_path / "scan.nii", tmp_path, "RAS")
    assert fingerprint.spacing_known.tolist() == [known]
    assert fingerprint.spacing_doubtful.tolist() == [doubtful]
    assert fingerprint.spacings_mm.tolist() == [list(zooms)]


def test_all_unreadable_scans_are_named_at_once(write_scan, tmp_path):
    (tmp_path / "short.nii").write_bytes(b"no")
    write_scan("four.nii", np.zeros((4, 4, 4, 3), dtype=np.float32))
    (tmp_path / "table.csv").write_text("patient_id,image\na,short.nii\nb,four.nii\n")
    cohort = Cohort(str(tmp_path / "table.csv"), Columns(), Preprocessing(), str(tmp_path))
    with pytest.raises(ValueError, match=r"(?s)short\.nii.*four\.nii has the shape"):
        cohort.plan()


def test_small_scans_keep_their_median_spacing_and_extent():
    plan, _ = plan_preprocessing(
        _fingerprint([[40, 50, 30]] * 2 + [[44, 50, 30]], [[1, 1, 2]] * 3), SETTINGS
    )
    assert plan == replace(SETTINGS, spacing_mm=(1, 1, 2), spatial_shape=(40, 50, 30))


def test_the_finest_axes_are_coarsened_first_to_meet_the_budget():
    plan, _ = plan_preprocessing(
        _fingerprint([[256, 256, 30]] * 3, [[0.9, 0.9, 5.0]] * 3), SETTINGS
    )
    assert plan.spacing_mm[2] == 5.0
    assert plan.spacing_mm[0] == plan.spacing_mm[1] > 0.9
    assert 0.95 * 40**3 < np.prod(plan.spatial_shape) <= 40**3
    extent = np.multiply(plan.spacing_mm, plan.spatial_shape)
    np.testing.assert_allclose(extent, [230.4, 230.4, 150], rtol=0.02)


FLAT = [[64, 128, depth] for depth in (20, 24, 28, 32, 36, 48, 60, 88)]


def test_scans_of_unknown_spacing_are_resized():
    plan, why = plan_preprocessing(_fingerprint(FLAT, known=False, doubtful=True), SETTINGS)
    assert (plan.fit, plan.spacing_mm, plan.assume_spacing_mm) == ("resize", None, None)
    assert np.prod(plan.spatial_shape) <= 40**3
    assert "the voxel size of most scans is unknown" in why
    assert "8 of 8 scans do not say their voxel size" in why
    assert "counts as 1 × 1 × 1 mm. Set --data.preprocessing.assume_spacing_mm" in why


def test_voxels_of_1_mm_without_a_unit_are_believed():
    shapes = [[50, 60, 50 + k % 9] for k in range(20)]
    plan, why = plan_preprocessing(
        _fingerprint(shapes, doubtful=True), replace(SETTINGS, voxel_budget=10**6)
    )
    assert (plan.fit, plan.spacing_mm, plan.spatial_shape) == (
        "crop_or_pad",
        (1,) * 3,
        (50, 60, 54),
    )
    assert "mm" not in why


def test_voxels_of_1_mm_without_a_unit_that_cannot_be_meant_are_a_placeholder():
    plan, why = plan_preprocessing(_fingerprint(FLAT, doubtful=True), SETTINGS)
    assert (plan.fit, plan.spacing_mm) == ("resize", None)
    assert "8 of 8 headers say 1 × 1 × 1 mm without a unit" in why
    assert "20 to 88 mm long along S: this looks like a placeholder" in why
    assert "fit=crop_or_pad" in why
    for asked in ({"fit": "crop_or_pad"}, {"spacing_mm": (2, 2, 2)}):
        plan, why = plan_preprocessing(
            _fingerprint(FLAT, doubtful=True), replace(SETTINGS, voxel_budget=10**6, **asked)
        )
        assert plan.fit == "crop_or_pad"
        assert plan.spacing_mm == asked.get("spacing_mm", (1, 1, 1))


@pytest.mark.parametrize("num_scans", [3, 5, 10, 30])
@pytest.mark.parametrize("odd", [[64, 64, 200], [64, 64, 12]])
def test_one_odd_scan_does_not_decide_for_the_others(num_scans, odd):
    shapes = [[64, 64, 40]] * (num_scans - 1) + [odd]
    last = np.arange(num_scans) == num_scans - 1
    for doubtful in (True, last):
        plan, _ = plan_preprocessing(_fingerprint(shapes, doubtful=doubtful), SETTINGS)
        assert plan.fit == "crop_or_pad"
        assert plan.spacing_mm is not None


def test_the_few_scans_of_unknown_spacing_get_the_median_of_the_others(tmp_path, write_scan):
    spacings = [[0.9, 0.9, 5]] * 3 + [[1, 1, 1]]
    known = [True] * 3 + [False]
    plan, why = plan_preprocessing(_fingerprint([[40, 40, 20]] * 4, spacings, known), SETTINGS)
    assert plan.fit == "crop_or_pad"
    assert plan.assume_spacing_mm == plan.spacing_mm == (0.9, 0.9, 5)
    assert "1 of 4 scans do not say their voxel size" in why
    assert "counts as 0.9 × 0.9 × 5 mm" in why
    assert "lose" not in why
    voxels = np.random.default_rng(0).random((9, 10, 8), dtype=np.float32)
    said = write_scan("said.nii", voxels, np.diag([0.9, 0.9, 5, 1]))
    nib.save(nib.Nifti1Image(voxels, None), tmp_path / "unsaid.nii")
    settings = Preprocessing((1.8, 1.8, 5), (6, 6, 9), assume_orientation="RAS")
    one, other = preprocess(said, settings), preprocess(tmp_path / "unsaid.nii", settings)
    assert not np.array_equal(one.volume, other.volume)
    assumed = replace(settings, assume_spacing_mm=(0.9, 0.9, 5))
    other = preprocess(tmp_path / "unsaid.nii", assumed)
    np.testing.assert_array_equal(one.volume, other.volume)


def test_a_pinned_shape_still_counts_the_scans_of_unknown_spacing(tmp_path, write_scan):
    write_scan("said.nii")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)), None), tmp_path / "un.nii")
    (tmp_path / "table.csv").write_text("patient_id,image\na,said.nii\nb,un.nii\n")
    settings = Preprocessing(spatial_shape=(8, 8, 8), assume_orientation="RAS")
    cohort = Cohort(str(tmp_path / "table.csv"), Columns(), settings, str(tmp_path))
    assert "1 of 2 scans do not say their voxel size" in cohort.plan()


def test_the_budget_follows_the_device(monkeypatch):
    for has_gpu, budget in ((True, GPU_BUDGET), (False, CPU_BUDGET)):
        monkeypatch.setattr("torch.cuda.is_available", lambda has_gpu=has_gpu: has_gpu)
        assert default_budget() == budget
        assert default_budget("cpu") == CPU_BUDGET
    plan, why = plan_preprocessing(
        _fingerprint([[90, 120, 120]] * 3, (2, 2, 2)), Preprocessing(voxel_budget=GPU_BUDGET)
    )
    assert 0.95 * GPU_BUDGET < np.prod(plan.spatial_shape) <= GPU_BUDGET
    assert "at most 884,736 voxels" in why


def test_scans_that_lose_an_axis_are_counted():
    _, why = plan_preprocessing(
        _fingerprint([[20, 20, 20]] * 4 + [[30, 20, 20]], [[1, 1, 1]] * 5), SETTINGS
    )
    assert "1 of 5 scans lose more than 5 % of an axis" in why


def test_a_wanted_spacing_that_breaks_the_budget_names_the_fix():
    with pytest.raises(ValueError, match=r"voxel_budget 1000\. Raise one of them"):
        plan_preprocessing(
            _fingerprint([[50, 50, 50]], [[1, 1, 1]]),
            Preprocessing(spacing_mm=(1, 1, 1), voxel_budget=1000),
        )
