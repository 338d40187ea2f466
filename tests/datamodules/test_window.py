import numpy as np
import pytest

from datamodules.window import EmptyWindowError, window

GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij"))
DISTANCE = np.sqrt((GRID**2).sum(0))
DEFAULT, PAPER = ((0.5, 99.5), "foreground"), ((2.5, 97.5), "everything")


def _tissue(share):
    """A ball that fills this share of the field of view."""
    return np.quantile(DISTANCE, share) >= DISTANCE


def _brain(share, air, seed=0):
    """Fluid, grey and white matter and a few lesions, with noise; `air` everywhere else."""
    generator = np.random.default_rng(seed)
    inside = _tissue(share)
    kinds = generator.choice([100, 300, 500, 800], p=[0.15, 0.45, 0.38, 0.02], size=inside.sum())
    volume = np.array(np.broadcast_to(air, inside.shape), dtype=np.float32)
    volume[inside] = kinds + generator.normal(0, 25, inside.sum())
    return volume, inside


def _rician(signal_to_noise, seed=1):
    parts = np.random.default_rng(seed).normal(0, 500 / signal_to_noise, (2, *DISTANCE.shape))
    return np.sqrt((parts**2).sum(0))


def _ct(share, noise, padding):
    generator = np.random.default_rng(2)
    inside = _tissue(share)
    volume = generator.normal(-1024, noise, inside.shape)
    volume[inside] = generator.choice([-100, 40, 700], p=[0.3, 0.6, 0.1], size=inside.sum())
    volume += 5 * generator.normal(size=inside.shape) * inside
    volume[(np.hypot(GRID[0], GRID[1]) > 1) & ~inside] = padding
    return volume.astype(np.float32), inside


def _clipped_tissue(volume, inside, percentiles, over):
    """Share of the true tissue that becomes exactly 0 or lies at the top of the window."""
    windowed, _ = window(volume, percentiles, over)
    assert (windowed.min(), windowed.max()) == (0, 1)
    return (windowed[inside] <= 0).mean(), (windowed[inside] >= 1).mean()


SOUND = {
    **{f"skull-stripped, brain {share:.1%}": _brain(share, 0) for share in (0.003, 0.04, 0.1, 0.2)},
    **{f"skull-stripped, brain {share:.0%}": _brain(share, 0) for share in (0.6, 0.9)},
    **{
        f"head {share:.0%} in air, signal to noise {ratio}": _brain(share, _rician(ratio))
        for share in (0.1, 0.3, 0.6)
        for ratio in (8, 20, 50)
    },
    "head 3 % in air": _brain(0.03, _rician(20)),
    "nothing but tissue": _brain(1.0, 0),
    **{
        f"CT, tissue {share:.0%}, noise {noise}, padding {padding}": _ct(share, noise, padding)
        for share in (0.03, 0.1, 0.6)
        for noise in (0, 20, 50)
        for padding in (-1024, -2000)
    },
}


@pytest.mark.parametrize("name", SOUND)
def test_hardly_any_tissue_is_clipped_whatever_its_share_and_whatever_air_is(name):
    below, above = _clipped_tissue(*SOUND[name], *DEFAULT)
    assert below <= 0.006
    assert above <= 0.011


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.99])
def test_a_shape_in_black_and_white_stays_one(share):
    shape = _tissue(share).astype(np.float32)
    windowed, clipped = window(shape * 255, *DEFAULT)
    np.testing.assert_array_equal(windowed, shape)
    assert clipped == 0


@pytest.mark.parametrize(
    ("share", "lost"), [(0.04, 0.625), (0.1, 0.25), (0.2, 0.125), (0.6, 0.042)]
)
def test_what_a_window_over_everything_clips_of_the_foreground_is_measured(share, lost):
    volume, inside = _brain(share, 0)
    _, above = _clipped_tissue(volume, inside, *PAPER)
    assert above == pytest.approx(lost, abs=0.01)
    _, measured = window(volume, *PAPER)
    assert measured == pytest.approx(lost, rel=0.3)  # the foreground lacks the darkest tissue
    assert window(volume, *DEFAULT)[1] == pytest.approx(0.005, abs=0.001)


def test_a_window_over_everything_is_that_of_the_percentiles():
    volume, _ = _brain(0.3, _rician(20))
    low, high = np.percentile(volume, PAPER[0])
    expected = (np.clip(volume, low, high) - low) / (high - low)
    np.testing.assert_allclose(window(volume, *PAPER)[0], expected, atol=1e-6)


def test_a_few_hot_or_dead_voxels_do_not_decide():
    volume, inside = _brain(0.1, 0)
    volume[5, 5, 5:8], volume[6, 6, 5] = 1e7, -1e7
    below, above = _clipped_tissue(volume, inside, *DEFAULT)
    assert below == 0
    assert 0.002 < above < 0.01


@pytest.mark.parametrize("over", ["foreground", "everything"])
def test_one_intensity_at_both_ends_is_no_window(over):
    volume = np.full((10, 10, 10), 3.0)
    with pytest.raises(EmptyWindowError, match=r"^3$"):
        window(volume, (0.5, 99.5), over)
    volume[0, 0, 0] = 1  # darker than the rest, and too small to count
    with pytest.raises(EmptyWindowError, match=r"^3$"):
        window(volume, (0.5, 99.5), over)
