import numpy as np
import pytest
import torch
import torchio as tio

from datamodules.augmentation import Augmentation, augment
from datamodules.bank import load_bank
from datamodules.cohort import Cohort
from datamodules.cohort_table import Columns
from datamodules.preprocessing import Preprocessing

SPACING = np.array([1.0, 1.5, 2.0])
STRONG = Augmentation(degrees=40, translation_mm=0)


def _corners(shape=(24, 20, 16)):
    volume = torch.zeros(1, *shape)
    for corner in np.ndindex(2, 2, 2):
        index = tuple(slice(-3, None) if end else slice(0, 3) for end in corner)
        volume[(0, *index)] = 1.0
    return volume


@pytest.mark.parametrize("seed", range(6))
def test_no_corner_is_cut_off(seed):
    turned = augment(_corners(), SPACING, STRONG, seed)
    cut = augment(
        _corners(), SPACING, Augmentation(degrees=40, translation_mm=0, keep_corners=False), seed
    )
    blobs = _count_blobs(turned)
    assert blobs == 8
    assert _count_blobs(cut) < 8


def _count_blobs(volume):
    from scipy.ndimage import label

    return label(volume[0].numpy() > 0.2, structure=np.ones((3, 3, 3)))[1]


def test_the_seed_decides_the_copy_and_leaves_torch_alone():
    volume = torch.rand(1, 10, 10, 10)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = augment(volume, SPACING, Augmentation(), 1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, augment(volume, SPACING, Augmentation(), 1))
    assert not torch.equal(first, augment(volume, SPACING, Augmentation(), 2))


def test_translation_is_in_millimetres():
    volume = torch.zeros(1, 21, 21, 21)
    volume[0, 10, 10, 10] = 1.0
    settings = Augmentation(degrees=0, translation_mm=4.0)
    shifts = []
    for seed in range(20):
        copy = augment(volume, SPACING, settings, seed)[0]
        place = torch.stack(torch.meshgrid(*map(torch.arange, copy.shape), indexing="ij"))
        center = (place * copy).sum((1, 2, 3)) / copy.sum()
        shifts.append((center.numpy() - 10) * SPACING)
    assert np.abs(shifts).max() <= 4.01
    assert np.abs(shifts).max(axis=0).min() > 2.5


def test_without_any_change_a_volume_stays_as_it_is():
    volume = torch.rand(1, 9, 10, 11)
    same = augment(volume, SPACING, Augmentation(degrees=0, translation_mm=0), 3)
    torch.testing.assert_close(same, volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(flip_axes=(0, 1, 2)),
        Augmentation(noise_std=0.1),
        Augmentation(log_gamma=0.3),
        Augmentation(bias_field=0.3),
        Augmentation(elastic_mm=2.0),
        Augmentation(scale=0.2),
    ],
)
def test_every_optional_change_changes_something(settings):
    volume = torch.rand(1, 24, 24, 24)
    plain = augment(volume, np.ones(3), Augmentation(), 1)
    copies = [augment(volume, np.ones(3), settings, seed) for seed in (1, 2)]
    assert not torch.equal(copies[0], copies[1])
    assert not torch.equal(copies[0], plain)
    assert copies[0].shape == volume.shape


def test_affine_changes_are_torchios(monkeypatch):
    drawn = []
    original = tio.Affine

    def spy(*arguments):
        drawn.append(arguments)
        return original(*arguments)

    monkeypatch.setattr("datamodules.augmentation.tio.Affine", spy)
    volume = torch.rand(1, 12, 12, 12)
    copy = augment(volume, SPACING, Augmentation(), 1)
    image = tio.ScalarImage(tensor=volume, affine=np.diag([*SPACING, 1]))
    assert torch.equal(copy, original(*drawn[0])(image).data)


def _cohort(table, tmp_path):
    settings = Preprocessing(spatial_shape=(8, 8, 8))
    return Cohort(str(table), Columns(), settings, str(tmp_path / "cache"))


def test_the_bank_holds_augmented_copies_and_depends_on_content_not_order(write_cohort, tmp_path):
    table = write_cohort(3)
    cohort = _cohort(table, tmp_path)
    settings = Augmentation(num_versions=2)
    bank = load_bank(cohort.volumes, settings, 7, tmp_path / "cache")
    assert bank.shape == (3, 2, 1, 8, 8, 8)
    assert not np.array_equal(bank[0, 0], bank[0, 1])
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    other = load_bank(_cohort(table, tmp_path).volumes, settings, 7, tmp_path / "elsewhere")
    np.testing.assert_array_equal(other[::-1], bank)
    assert not np.array_equal(load_bank(cohort.volumes, settings, 8, tmp_path / "cache"), bank)


def test_a_bank_without_copies_is_refused():
    with pytest.raises(ValueError, match=r"needs at least 1 copy.*mode=none"):
        Augmentation(num_versions=0)
