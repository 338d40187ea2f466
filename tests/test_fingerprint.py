import numpy as np
import pytest

from datamodules.fingerprint import Fingerprint, plan_preprocessing, read_fingerprint
from datamodules.preprocessing import Preprocessing


def _fingerprint(shapes, spacings, known=True):
    shapes, spacings = np.array(shapes), np.array(spacings, dtype=float)
    return Fingerprint(shapes, spacings, np.full(len(shapes), known))


def test_headers_are_read_in_ras_order(write_scan):
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -2, -3, 4, 1  # axes P, I, R
    path = write_scan(affine=affine, shape=(5, 6, 7))
    fingerprint = read_fingerprint([path])
    assert fingerprint.shapes.tolist() == [[7, 5, 6]]
    assert fingerprint.spacings_mm.tolist() == [[4, 2, 3]]
    assert fingerprint.spacing_known.tolist() == [True]


def test_a_unit_cube_without_a_unit_counts_as_unknown(write_scan):
    paths = [write_scan("a.nii", unit=None), write_scan("b.nii", unit="mm")]
    assert read_fingerprint(paths).spacing_known.tolist() == [False, True]


def test_all_unreadable_scans_are_named_at_once(write_scan, tmp_path):
    (tmp_path / "torn.nii").write_bytes(b"no")
    four_d = write_scan("four.nii", np.zeros((4, 4, 4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match=r"(?s)torn\.nii.*four\.nii has the shape"):
        read_fingerprint([tmp_path / "torn.nii", four_d])


def test_small_scans_keep_their_median_spacing_and_extent():
    plan, _ = plan_preprocessing(
        _fingerprint([[40, 50, 30]] * 2 + [[44, 50, 30]], [[1, 1, 2]] * 3), Preprocessing()
    )
    assert plan == Preprocessing(spacing_mm=(1, 1, 2), spatial_shape=(40, 50, 30))


def test_the_finest_axes_are_coarsened_first_to_meet_the_budget():
    plan, _ = plan_preprocessing(
        _fingerprint([[256, 256, 30]] * 3, [[0.9, 0.9, 5.0]] * 3), Preprocessing()
    )
    assert plan.spacing_mm[2] == 5.0
    assert plan.spacing_mm[0] == plan.spacing_mm[1] > 0.9
    assert 0.95 * 40**3 < np.prod(plan.spatial_shape) <= 40**3
    extent = np.multiply(plan.spacing_mm, plan.spatial_shape)
    np.testing.assert_allclose(extent, [230.4, 230.4, 150], rtol=0.02)


def test_scans_of_unknown_spacing_are_resized():
    plan, why = plan_preprocessing(
        _fingerprint([[64, 128, 20], [64, 128, 40], [64, 128, 88]], [[1, 1, 1]] * 3, known=False),
        Preprocessing(),
    )
    assert (plan.fit, plan.spacing_mm) == ("resize", None)
    assert np.prod(plan.spatial_shape) <= 40**3
    assert "not all headers know" in why


def test_scans_that_lose_an_axis_are_counted():
    _, why = plan_preprocessing(
        _fingerprint([[20, 20, 20]] * 4 + [[30, 20, 20]], [[1, 1, 1]] * 5), Preprocessing()
    )
    assert "1 of 5 scans lose more than 5 % of an axis" in why


def test_a_wanted_spacing_that_breaks_the_budget_names_the_mend():
    with pytest.raises(ValueError, match=r"voxel_budget 1000\. Raise one of them"):
        plan_preprocessing(
            _fingerprint([[50, 50, 50]], [[1, 1, 1]]),
            Preprocessing(spacing_mm=(1, 1, 1), voxel_budget=1000),
        )
