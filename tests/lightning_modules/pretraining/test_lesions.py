import pytest
import torch
from torch.nn import functional as F

from lightning_modules.pretraining.lesions import LesionKind, Lesions, put_lesions


def _heads(num=200, seed=0):
    """A block of tissue with a little noise in air."""
    generator = torch.Generator().manual_seed(seed)
    volume = torch.zeros(num, 1, 16, 14, 12)
    volume[:, :, 3:13, 3:11, 2:10] = 0.5
    volume += 0.02 * torch.randn(volume.shape, generator=generator)
    volume[:, :, 8, 8, 8] = 1.0  # the brightest
    return volume


def _put(volume, **kind):
    torch.manual_seed(0)
    return put_lesions(volume, LesionKind(**kind))


def test_half_of_the_volumes_get_one_lesion_inside_the_tissue():
    volume = _heads()
    changed, inside = _put(volume)
    there = inside.flatten(1).any(1)
    assert 0.4 < there.float().mean() < 0.6
    assert not inside[:, :, :3].any()
    assert not inside[:, :, :, :, 10:].any()
    assert torch.equal(changed[~inside], volume[~inside])
    assert torch.equal(changed[~there], volume[~there])
    sizes = inside.flatten(1).sum(1)[there]
    assert len(sizes.unique()) > 30
    for each in inside[there][
        :20, 0
    ]:  # in one piece: nothing is left over around any of its voxels
        grown = torch.zeros_like(each)
        grown.view(-1)[each.flatten().int().argmax()] = True
        for _ in range(40):
            grown = (F.max_pool3d(grown[None, None].float(), 3, 1, 1)[0, 0] > 0) & each
        assert grown.sum() >= 0.9 * each.sum()


def test_lesions_are_darker_and_brighter_by_the_contrast_asked_for():
    volume = _heads()
    changed, inside = _put(volume, contrast=(0.3, 0.3), texture=0.0, transplants=0.0, share=1.0)
    deepest = (changed - volume).abs().flatten(1).amax(1)
    span = volume.amax() - volume.amin()
    assert (deepest / span).median().item() == pytest.approx(0.3, abs=0.05)
    brighter = ((changed - volume) * inside).sum((1, 2, 3, 4)) > 0
    assert 0.4 < brighter.float().mean() < 0.6
    assert changed.amin() >= volume.amin() - 1e-5
    assert changed.amax() <= volume.amax() + 1e-5


def test_a_transplant_has_the_intensities_of_another_patient():
    volume = _heads(6)
    volume[1, :, 3:13, 3:11, 2:10] = 0.0  # air alone
    changed, inside = _put(volume, transplants=1.0, share=1.0)
    assert not inside[1].any()
    taken = changed[2][inside[2]]
    assert taken.min() < 0.1  # patient 2 got a piece of patient 1
    assert changed[4][inside[4]].min() > 0.3


def test_patches_of_air_get_no_lesion():
    volume = torch.zeros(4, 1, 8, 8, 8)
    changed, inside = _put(volume, share=1.0)
    assert torch.equal(changed, volume)
    assert not inside.any()


def test_the_place_of_a_lesion_is_what_the_map_is_compared_with(monkeypatch):
    torch.manual_seed(0)
    model = Lesions(depth=2, filters=4)
    seen = torch.randn(2, 1, 8, 8, 8)
    inside = torch.zeros(2, 1, 8, 8, 8, dtype=torch.bool)
    inside[0, :, :4, :4, :4] = True
    monkeypatch.setattr(model, "task", lambda volume: (seen, inside))
    place = torch.full((2, 2, 2, 2), -9.0)
    place[0, 0, 0, 0] = 9.0
    monkeypatch.setattr(Lesions, "forward", lambda self, volume: (torch.tensor([9.0, -9.0]), place))
    right = model.losses(seen)
    assert max(right.values()) < 0.01
    monkeypatch.setattr(model, "task", lambda volume: (seen, inside.flip(0)))
    assert min(model.losses(seen).values()) > 1
