from argparse import ArgumentError

import numpy as np
import pytest
import torch

from datamodules.augmentation import Augmentation
from datamodules.augmented_copies import load_copies
from datamodules.batches.epoch_sampler import Batch
from datamodules.changes import make_copies
from datamodules.cohort import Cohort
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Columns
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits

SPACING = np.array([1.0, 1.5, 2.0])


def augment(volume, spacing_mm, augmentation, seed):
    """Make one copy of one volume."""
    return make_copies(volume[None], spacing_mm[None], augmentation, [seed])[0]


@pytest.mark.slow
def test_training_and_test_scans_have_the_same_distribution_of_head_sizes(write_scan, tmp_path):
    lines = ["patient_id,image,label"]
    place = np.stack(np.indices((24, 24, 24)), -1) - 11.5
    for number in range(20):
        head = np.linalg.norm(place / (6 + number % 5), axis=-1) < 1
        write_scan(f"{number}.nii.gz", head.astype(np.float32))
        lines.append(f"p{number},{number}.nii.gz,{'ab'[number % 2]}")
    (tmp_path / "heads.csv").write_text("\n".join(lines))
    data = ScanDataModule(
        str(tmp_path / "heads.csv"),
        preprocessing=Preprocessing(spatial_shape=(24, 24, 24), window_percentiles=None),
        augmentation=Augmentation(num_versions=16),
        splits=Splits(num_repeats=1),
        cache_dir=str(tmp_path / "cache"),
    )
    data.setup("fit")
    tested = _head_sizes(data.plain, 0, np.arange(20))
    trained = np.array([_head_sizes(data.augmented, epoch, np.arange(20)) for epoch in range(30)])
    np.testing.assert_allclose(trained.mean(0), tested, rtol=0.02)
    assert (trained == tested).any()  # the scan as it is comes as well


def _head_sizes(scans, epoch, rows):
    """Diameter of each head in voxels, from its volume."""
    return (
        6
        / np.pi
        * scans[Batch(epoch, rows, np.zeros_like(rows))]["volume"].float().sum((1, 2, 3, 4)).numpy()
    ) ** (1 / 3)


def test_the_seed_decides_the_copy_and_leaves_torch_alone():
    volume = torch.rand(1, 10, 10, 10)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = augment(volume, SPACING, Augmentation(elastic_mm=1), 1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, augment(volume, SPACING, Augmentation(elastic_mm=1), 1))
    assert not torch.equal(first, augment(volume, SPACING, Augmentation(elastic_mm=1), 2))


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


def _cohort(table, tmp_path):
    settings = Preprocessing(spatial_shape=(8, 8, 8))
    return Cohort(str(table), Columns(), settings, str(tmp_path / "cache"))


def test_augmented_copies_depend_on_content_not_on_order(write_cohort, tmp_path):
    table = write_cohort(3)
    cohort = _cohort(table, tmp_path)
    settings = Augmentation(num_versions=2)
    copies = load_copies(cohort.volumes, settings, 7, tmp_path / "cache")
    assert copies.shape == (3, 2, 1, 8, 8, 8)
    np.testing.assert_array_equal(copies[:, 0], cohort.volumes.data)  # version 0 is the scan itself
    assert not np.array_equal(copies[0, 0], copies[0, 1])
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    other = load_copies(_cohort(table, tmp_path).volumes, settings, 7, tmp_path / "elsewhere")
    np.testing.assert_array_equal(other[::-1], copies)
    assert not np.array_equal(load_copies(cohort.volumes, settings, 8, tmp_path / "cache"), copies)


def test_no_copies_at_all_are_refused():
    with pytest.raises(ValueError, match=r"needs at least 1.*mode=none"):
        Augmentation(num_versions=0)


GAMMA = {"class_path": "torchio.RandomGamma", "init_args": {"log_gamma": [0.2, 0.5]}}


def test_named_transforms_follow_the_seed():
    volume = torch.rand(1, 9, 10, 11)
    settings = Augmentation(degrees=0, translation_mm=0, transforms=[GAMMA])
    copies = [augment(volume, SPACING, settings, seed) for seed in (1, 2, 1)]
    assert torch.equal(copies[0], copies[2])
    assert not torch.equal(copies[0], copies[1])
    for copy in copies:
        exponents = (copy.log() / volume.log()).flatten()
        assert exponents.std() < 1e-3
        assert np.exp(0.2) - 1e-3 < exponents.mean() < np.exp(0.5) + 1e-3


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"class_path": "torchio.NoSuch"}, "no attribute 'NoSuch'"),
        ({"class_path": "torchio.RandomGamma", "init_args": {"gama": 1}}, "'gama' is not accepted"),
        ({"class_path": "torch.nn.Linear"}, "not correspond to a subclass of Transform"),
    ],
)
def test_a_transform_that_cannot_be_built_is_refused_at_once(transform, words):
    with pytest.raises(ArgumentError, match=words):
        Augmentation(transforms=[transform])


def test_a_transform_that_changes_the_shape_is_refused():
    crop = {"class_path": "torchio.Crop", "init_args": {"cropping": 2}}
    with pytest.raises(ValueError, match=r"volumes of \(4, 4, 4\) voxels out of \(8, 8, 8\)"):
        augment(torch.rand(1, 8, 8, 8), SPACING, Augmentation(transforms=[crop]), 1)


def test_named_transforms_are_in_the_copies_of_both_modes(write_cohort, tmp_path):
    table = write_cohort(8)
    served = {}
    for mode in ("copies", "fresh"):
        for transforms in ([], [GAMMA]):
            data = ScanDataModule(
                str(table),
                preprocessing=Preprocessing(spatial_shape=(12, 12, 12)),
                augmentation=Augmentation(
                    mode, 2, degrees=0, translation_mm=0, transforms=transforms
                ),
                splits=Splits(num_repeats=1, num_folds=2),
                cache_dir=str(tmp_path / "cache"),
            )
            data.setup("fit")
            rows = data.rows["train"]
            batches = [data.augmented[Batch(n, rows, np.zeros_like(rows))] for n in range(8)]
            volumes = torch.cat([data.on_after_batch_transfer(b, 0)["volume"] for b in batches])
            served[mode, bool(transforms)] = volumes.float().mean().item()
        assert served[mode, True] < served[mode, False] - 0.005  # gamma above 1 darkens
