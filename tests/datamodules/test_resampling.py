import numpy as np
import pytest
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from datamodules.resampling import resample

LENGTHS = st.integers(1, 90)


def _resize(volume, shape, **options):
    return resample(volume, shape, np.array(volume.shape) / shape, **options)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(old=LENGTHS, new=LENGTHS, axis=st.integers(0, 2))
def test_any_length_becomes_exactly_any_other_with_the_values_of_torch(old, new, axis):
    shape = np.array([3, 3, 3])
    shape[axis] = old
    volume = np.random.default_rng(old).random(shape, dtype=np.float32)
    shape[axis] = new
    resized = _resize(volume, shape)
    assert resized.shape == tuple(shape)
    reference = F.interpolate(torch.from_numpy(volume)[None, None], tuple(shape), mode="trilinear")
    np.testing.assert_allclose(resized, reference[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [((24, 30, 20), (12, 40, 20)), ((10, 9, 8), (21, 9, 3)), ((5, 6, 7), (1, 2, 70))],
)
def test_resizing_equals_torchio_where_that_does_not_round(old, new):
    volume = np.random.default_rng(0).random(old, dtype=np.float32)
    reference = tio.Resize(new)(tio.ScalarImage(tensor=volume[None])).data[0]
    np.testing.assert_allclose(_resize(volume, new), reference, atol=1e-5)


def test_resampling_to_a_spacing_equals_torchio():
    volume = np.random.default_rng(0).random((20, 15, 12), dtype=np.float32)
    image = tio.Resample((1.3, 0.7, 2.0))(tio.ScalarImage(tensor=volume[None]))
    resampled = resample(volume, image.spatial_shape, (1.3, 0.7, 2.0))
    np.testing.assert_allclose(resampled, image.data[0], atol=1e-5)


@pytest.mark.parametrize("new", [(7, 5), (16, 16), (24, 10), (31, 40)])
def test_anti_aliasing_equals_that_of_torch_in_the_plane(new):
    plane = np.random.default_rng(0).random((31, 20), dtype=np.float32)
    options = {"mode": "bilinear", "antialias": True}
    reference = F.interpolate(torch.from_numpy(plane)[None, None], new, **options)[0, 0]
    resized = _resize(plane[..., None], (*new, 1), anti_alias=True)[..., 0]
    np.testing.assert_allclose(resized, reference, atol=1e-5)


def test_a_pattern_finer_than_the_new_voxels_vanishes_only_with_anti_aliasing():
    stripes = np.tile(np.float32([1, 1, 0, 0, 0]), 24)[:, None, None] * np.ones((1, 4, 4))
    aliased, averaged = (_resize(stripes, (28, 4, 4), anti_alias=on)[2:-2] for on in (False, True))
    assert np.ptp(aliased) > 0.9
    assert np.ptp(averaged) < 0.2
    assert averaged.mean() == pytest.approx(0.4, abs=0.02)


def test_a_constant_stays_what_it_is():
    volume = np.full((9, 14, 23), -1024.0)
    for anti_alias in (False, True):
        resized = _resize(volume, (4, 30, 11), anti_alias=anti_alias)
        np.testing.assert_allclose(resized, -1024, rtol=1e-6)
