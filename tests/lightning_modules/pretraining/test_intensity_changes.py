from dataclasses import replace

import pytest
import torch

from lightning_modules.pretraining.intensity_changes import (
    RISING_CURVE,
    IntensityChanges,
    change_intensity,
)

NONE = IntensityChanges(0, 0, 0, 0, 0, 0)
VOLUME = torch.rand(16, 1, 9, 8, 7, generator=torch.Generator().manual_seed(0)) * 3 - 1


def _changed(changes, volume=VOLUME):
    torch.manual_seed(1)
    return change_intensity(volume, changes)


def test_without_changes_a_volume_stays_but_for_rounding():
    step = (VOLUME.max() - VOLUME.min()) / 255
    assert (_changed(NONE) - VOLUME).abs().max() <= step / 2 + 1e-6


def test_a_rising_curve_keeps_the_order_of_intensities_and_differs_between_volumes():
    changed = _changed(replace(RISING_CURVE, curve=1.0, log_gamma=0.4)).flatten(1)
    order = VOLUME.flatten(1).argsort(1)
    steps = changed.gather(1, order).diff(dim=1)
    assert (steps >= -1e-5).all()
    assert changed.min() >= VOLUME.min() - 1e-5
    assert changed.max() <= VOLUME.max() + 1e-5
    same = torch.full((16, 1, 2, 2, 2), 0.5)
    same[:, :, 0, 0, 0], same[:, :, 1, 1, 1] = 0, 1
    assert _changed(RISING_CURVE, same)[:, 0, 0, 0, 1].unique().numel() > 12


def test_curves_that_fall_swap_intensities_but_leave_air_the_darkest():
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 4, 4, 64).contiguous()
    changed = _changed(replace(NONE, curve=1.0, non_monotone=0.5), ramp)[:, 0, 0, 0]
    falls = (changed.diff(dim=1) < -1e-6).any(1)
    assert 0.35 < falls.float().mean() < 0.65
    assert torch.equal(changed[:, 0], torch.zeros(200))
    assert changed.min() >= 0


def test_blur_keeps_the_mean_of_what_is_inside_and_lowers_differences():
    point = torch.zeros(8, 1, 9, 9, 9)
    point[:, :, 4, 4, 4] = 1
    blurred = _changed(replace(NONE, blur=1 / 3), point)
    assert blurred.sum((1, 2, 3, 4)).tolist() == pytest.approx([1] * 8, abs=1e-4)
    assert (blurred.amax((1, 2, 3, 4)) < 1).all()
    assert torch.equal(_changed(replace(NONE, blur=1 / 3), point[:, :, :1] * 0), point[:, :, :1])


def test_bias_is_smooth_and_noise_has_its_spread():
    flat = torch.ones(400, 1, 8, 8, 8)
    flat[:, :, 0, 0, 0] = 0
    field = _changed(replace(NONE, bias_field=0.3), flat).log()[:, 0, 1:]
    assert field.abs().max() <= 0.3 + 1e-4
    assert field.diff(dim=1).abs().max() < 0.2
    noise = (_changed(replace(NONE, noise_std=0.1), flat) - flat).std((1, 2, 3, 4))
    assert noise.max() < 0.11
    assert noise.mean() == pytest.approx(0.05, abs=0.005)


def test_a_share_out_of_its_range_is_refused():
    with pytest.raises(ValueError, match=r"blur is 0\.5; set it to 0 to 0\.333"):
        IntensityChanges(blur=0.5)
