import inspect

import numpy as np
import pytest
from lightning import Trainer

from datamodules.patches import PatchDataModule
from datamodules.preprocessing import Preprocessing
from datamodules.splits import Splits, make_splits, patients_of

PATCH_SHAPE = inspect.signature(PatchDataModule).parameters["patch_shape"].default


@pytest.fixture
def data(write_cohort, tmp_path):
    table = str(write_cohort(10, labelled=False))

    def build(**settings):
        defaults = {
            "preprocessing": Preprocessing(spatial_shape=(12, 11, 10)),
            "patch_shape": (5, 4, 3),
            "patches_per_volume": 10,
            "val_patches_per_volume": 5,
            "batch_size": 16,
            "cache_dir": str(tmp_path / "cache"),
        }
        module = PatchDataModule(table, **{**defaults, **settings})
        module.prepare_data()
        module.setup("fit")
        return module

    return build


def test_patches_are_cut_out_of_training_volumes(data):
    module = data()
    volumes = np.moveaxis(module.cohort.volumes.data[:, 0], 1, -1)
    windows = np.lib.stride_tricks.sliding_window_view(volumes, (5, 4, 3), axis=(1, 2, 3))
    batch = next(iter(module.train_dataloader()))["volume"].numpy()
    assert batch.shape == (16, 1, 5, 4, 3)
    sources = set()
    for patch in batch[:, 0]:
        rows = np.argwhere((windows == patch).all(axis=(-3, -2, -1)))[:, 0]
        assert len(rows) == 1
        sources |= set(rows.tolist())
    assert sources <= set(module.train_patches.rows.tolist())
    assert len(sources) > 3


def test_patches_reach_every_place(data):
    module = data(batch_size=4000, patches_per_volume=2000)
    starts = np.zeros((8, 8, 8), dtype=bool)
    volumes = np.moveaxis(module.cohort.volumes.data[:, 0], 1, -1)
    first_voxels = next(iter(module.train_dataloader()))["volume"][:, 0, 0, 0, 0].numpy()
    starts = np.isin(volumes[:, :8, :8, :8], first_voxels)
    assert starts[module.train_patches.rows].mean() > 0.5
    assert np.isin(volumes[:, 7, 7, 7], first_voxels).any()


def test_epochs_share_the_patches_of_a_volume_evenly(data):
    module = data(patches_per_volume=30)
    for epochs in (1, 3):
        module.trainer = Trainer(max_epochs=epochs, accelerator="cpu", logger=False)
        patches = sum(len(batch["volume"]) for batch in module.train_dataloader())
        assert patches == 30 * len(module.train_patches.rows) // epochs


def test_training_patches_change_with_the_epoch_and_validation_patches_do_not(data):
    module = data()

    def first(loader, epoch):
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))["volume"].numpy()

    train, val = module.train_dataloader, module.val_dataloader
    assert not np.array_equal(first(train(), 0), first(train(), 1))
    assert np.array_equal(first(train(), 1), first(train(), 1))
    assert np.array_equal(first(val(), 0), first(val(), 1))


def test_a_fold_of_its_own_uses_the_training_patients_alone(data, tmp_path):
    patients = [f"p{n:02d}" for n in range(10)]
    table = make_splits(patients, list("ab" * 5), Splits(num_folds=3, num_repeats=2))
    table.to_csv(tmp_path / "splits.csv", index=False)
    module = data(splits_path=str(tmp_path), repeat=1, fold=2)
    expected = patients_of(table, 1, 2)["train"]
    assert module.training_patients == expected
    used = np.concatenate([module.train_patches.rows, module.val_patches.rows])
    assert {module.cohort.patients[row] for row in used} == expected
    assert len(module.fold_runs()) == 6


def test_splits_of_strangers_are_refused(data, tmp_path):
    table = make_splits([f"x{n}" for n in range(9)], list("aba" * 3), Splits(num_folds=3))
    table.to_csv(tmp_path / "splits.csv", index=False)
    with pytest.raises(ValueError, match=r"No patient of .* is a training patient"):
        data(splits_path=str(tmp_path / "splits.csv"))


def test_patches_are_thick_by_default_and_no_larger_than_the_volumes(data, caplog):
    caplog.set_level("INFO", logger="datamodules")
    module = data(patch_shape=PATCH_SHAPE)
    assert module.facts() == {"spatial_shape": (12, 11, 10), "volume_shape": (12, 11, 10)}
    assert next(iter(module.train_dataloader()))["volume"].shape == (16, 1, 12, 11, 10)
    assert "Patches have 12 × 11 × 10 voxels: the volumes have no more." in caplog.text
    larger = data(patch_shape=PATCH_SHAPE, preprocessing=Preprocessing(spatial_shape=(26, 24, 12)))
    assert larger.patch_shape == (24, 24, 12)
    assert data(patch_shape=(5, 4, 11)).patch_shape == (5, 4, 10)
    assert PatchDataModule(
        "any.csv", preprocessing=Preprocessing(spatial_shape=(30, 30, 30))
    ).facts() == {"spatial_shape": (24, 24, 16), "volume_shape": (30, 30, 30)}
