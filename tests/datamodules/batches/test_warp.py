import numpy as np
import pytest
import torch
import torchio as tio
from scipy import stats

from datamodules.augmentation import Augmentation
from datamodules.batches import warp
from datamodules.batches.warp import voxel_map
from datamodules.changes import (
    apply_changes,
    apply_torchio,
    draw_change,
    draw_changes,
    make_copies,
)
from kernels.compiled import _compile, _log_once, compiled

SHAPE = (14, 12, 10)
SPACING = np.array([1.0, 1.5, 2.0])
ALL_BATCHED = Augmentation(
    degrees=30, translation_mm=4, scale=0.2, flip_axes=(0, 2), log_gamma=0.3, noise_std=0.1
)


@pytest.fixture(params=["loop", "grid"])
def way(request, monkeypatch):
    """Once with the compiled loop, once as on a GPU."""
    if request.param == "grid":
        monkeypatch.setattr(warp, "compiled", lambda _: None)
    elif compiled("warp") is None:
        pytest.skip("there is no C compiler")
    return request.param


def _volumes(number):
    return torch.rand(number, 1, *SHAPE, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("flips", [(), (1,), (0, 1, 2)])
def test_a_warp_is_torchios_affine(way, flips):
    volumes = _volumes(6)
    random = np.random.default_rng(0)
    maps, expected = [], []
    for volume in volumes:
        scale, degrees = random.uniform(0.7, 1.3), random.uniform(-40, 40, 3)
        shift = random.uniform(-5, 5, 3)
        flipped = np.isin(range(3), flips)
        maps.append(voxel_map(scale, degrees, shift, flipped, SPACING, SHAPE))
        image = tio.ScalarImage(tensor=volume, affine=np.diag([*SPACING, 1]))
        copy = tio.Affine((scale,) * 3, tuple(degrees), tuple(shift))(image).data
        expected.append(copy.flip([axis + 1 for axis in flips]))
    copies = warp.warp(volumes, torch.from_numpy(np.array(maps)))
    assert (copies == volumes.amin((1, 2, 3, 4), keepdim=True)).float().mean() > 0.05  # outside
    tolerance = 5e-7 if way == "loop" else 1e-5
    torch.testing.assert_close(copies, torch.stack(expected), atol=tolerance, rtol=0)


@pytest.mark.parametrize("shape", [(1, 7, 5), (6, 1, 5), (6, 7, 1), (70, 3, 2), (2, 130, 2)])
def test_thin_and_long_volumes_are_warped_alike(shape):
    volumes = torch.rand(2, 1, *shape)
    degrees, shift = np.array([5.0, -7.0, 3.0]), np.array([0.3, -0.2, 0.4])
    voxel_maps = voxel_map(1.1, degrees, shift, np.zeros(3, bool), SPACING, shape)
    maps = torch.from_numpy(voxel_maps).expand(2, 3, 4)
    expected = warp._warp_by_grid(volumes, maps)
    torch.testing.assert_close(warp.warp(volumes, maps), expected, atol=1e-5, rtol=0)


def test_a_copy_is_what_torchio_makes_of_the_same_parameters(way):
    volumes, seeds = _volumes(12), range(12)
    copies = make_copies(volumes, np.tile(SPACING, (12, 1)), ALL_BATCHED, seeds)
    for volume, copy, seed in zip(volumes, copies, seeds, strict=True):
        scale, degrees, shift, flips, gamma, noise_std, noise_seed = draw_change(ALL_BATCHED, seed)
        steps = [
            tio.Affine((scale,) * 3, tuple(degrees), tuple(shift)),
            *([tio.Flip(tuple(map(int, np.flatnonzero(flips))))] if flips.any() else []),
            tio.Gamma(gamma),
            tio.Noise(0, noise_std, noise_seed),
        ]
        image = tio.ScalarImage(tensor=volume, affine=np.diag([*SPACING, 1]))
        expected = tio.Compose(steps)(image).data
        torch.testing.assert_close(copy, expected, atol=1e-5, rtol=1e-5)


def test_parameters_are_uniform_within_their_limits():
    drawn = [draw_change(ALL_BATCHED, seed) for seed in range(2000)]
    columns = [
        *zip(*(each.degrees / 30 for each in drawn), strict=True),
        *zip(*(each.shift_mm / 4 for each in drawn), strict=True),
        [(each.scale - 1) / 0.2 for each in drawn],
        [np.log(each.gamma) / 0.3 for each in drawn],
        [2 * each.noise_std / 0.1 - 1 for each in drawn],
    ]
    for column in columns:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    flips = np.array([each.flips for each in drawn], dtype=float)
    correlations = np.corrcoef([*columns, flips[:, 0], flips[:, 2]])
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.09  # 4 standard errors
    np.testing.assert_allclose(flips.mean(0), (0.5, 0, 0.5), atol=0.045)
    assert len({each.noise_seed for each in drawn}) == 2000


def test_what_is_switched_on_changes_no_other_draw():
    for seed in range(20):
        alone, all_of_it = (
            draw_change(Augmentation(degrees=30), seed),
            draw_change(ALL_BATCHED, seed),
        )
        np.testing.assert_array_equal(alone.degrees, all_of_it.degrees)
        assert (alone.scale, alone.gamma, alone.noise_std) == (1, 1, 0)
        assert not alone.flips.any()


def test_a_copy_does_not_depend_on_its_batch_or_on_how_it_is_stored():
    volumes, spacings = _volumes(3), np.tile(SPACING, (3, 1))
    together = make_copies(volumes, spacings, ALL_BATCHED, [4, 5, 6])
    alone = make_copies(volumes[1:2], spacings[:1], ALL_BATCHED, [5])
    stored = volumes.movedim(-1, 2).contiguous().movedim(2, -1)
    assert torch.equal(together[1:2], alone)
    assert torch.equal(make_copies(stored, spacings, ALL_BATCHED, [4, 5, 6]), together)


def test_what_only_torchio_does_is_left_to_it_and_comes_first():
    settings = Augmentation(elastic_mm=1.0, bias_field=0.2, degrees=10)
    volumes, spacings = _volumes(2), np.tile(SPACING, (2, 1))
    steps = tio.RandomElasticDeformation(max_displacement=1.0), tio.RandomBiasField(0.2)
    torch.manual_seed(2)
    expected = tio.Compose(steps)(
        tio.ScalarImage(tensor=volumes[1], affine=np.diag([*SPACING, 1]))
    ).data
    deformed = apply_torchio(volumes, spacings, settings, [1, 2])
    assert torch.equal(deformed[1], expected)
    turns = draw_changes(spacings, Augmentation(degrees=10), [1, 2], SHAPE)
    copies = make_copies(volumes, spacings, settings, [1, 2])
    assert torch.equal(copies, apply_changes(deformed, turns))


def test_without_a_compiler_the_user_is_told_once(monkeypatch, caplog):
    _compile.cache_clear()
    _log_once.cache_clear()
    monkeypatch.setattr("shutil.which", lambda _: None)
    with caplog.at_level("INFO"):
        for _ in range(2):
            warp.warp(_volumes(1), torch.eye(3, 4)[None])
    _compile.cache_clear()
    assert [record.message for record in caplog.records if "C compiler" in record.message] == [
        "No C compiler works here: augmentation and training take several times as long."
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_copies():
    settings = Augmentation(degrees=30, translation_mm=4, flip_axes=(0,), log_gamma=0.3)
    volumes, spacings = _volumes(4), np.tile(SPACING, (4, 1))
    changes = draw_changes(spacings, settings, range(4), SHAPE)
    expected = apply_changes(volumes, changes)
    there = changes._replace(voxel_maps=changes.voxel_maps.cuda(), gammas=changes.gammas.cuda())
    copies = apply_changes(volumes.cuda(), there)
    torch.testing.assert_close(copies.cpu(), expected, atol=2e-5, rtol=1e-5)
