import numpy as np
import pytest
import torch

from datamodules.augmentation import Augmentation, draw_seed
from datamodules.augmented_copies import load_copies
from datamodules.changes import make_copies
from datamodules.preprocessing import Preprocessing
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits

SETTINGS = Preprocessing(spatial_shape=(8, 8, 8))


@pytest.fixture
def data(write_cohort, tmp_path):
    """Return a function that builds the data of one fold, ready to fit."""
    table = str(write_cohort(12, scans_per_patient=2))

    def build(**settings):
        defaults = {
            "preprocessing": SETTINGS,
            "augmentation": Augmentation(num_versions=3),
            "splits": Splits(num_folds=3, num_repeats=1, val_fraction=0.2),
            "batch_size": 4,
            "cache_dir": str(tmp_path / "cache"),
        }
        module = ScanDataModule(table, **{**defaults, **settings})
        module.prepare_data()
        module.setup("fit")
        return module

    return build


def test_parts_hold_whole_patients(data):
    module = data(fold=1)
    patients = {
        part: {module.cohort.patients[row] for row in rows} for part, rows in module.rows.items()
    }
    assert sum(len(rows) for rows in module.rows.values()) == 24
    assert not patients["train"] & (patients["val"] | patients["test"])
    assert patients["val"] | patients["test"] == module.held_out_patients
    assert patients["train"] | patients["val"] == module.training_patients


def test_the_intensity_scale_is_that_of_the_training_patients(data, write_scan):
    module = data(preprocessing=Preprocessing(spatial_shape=(12, 12, 12), window_percentiles=None))
    before = module.intensity
    assert before == module.cohort.fit_intensity(module.rows["train"])
    for part in ("val", "test"):
        image = module.cohort.scans[module.rows[part][0]].image
        write_scan(
            image, np.full((12, 12, 12), 7.0) + np.random.default_rng(0).random((12, 12, 12))
        )
    again = data(preprocessing=module.cohort.preprocessing)
    assert not np.array_equal(again.cohort.volumes.means, module.cohort.volumes.means)
    assert again.intensity == before


def test_batches_are_scaled_after_the_transfer(data):
    module = data()
    batch = next(iter(module.val_dataloader()))
    assert batch["volume"].dtype == torch.float16
    scaled = module.on_after_batch_transfer(batch, 0)["volume"]
    expected = (batch["volume"].float() - module.intensity.mean[0]) / module.intensity.divisor[0]
    torch.testing.assert_close(scaled, expected)


def test_validation_and_test_serve_the_plain_volumes_with_their_labels(data):
    module = data()
    for loader, part in ((module.val_dataloader(), "val"), (module.test_dataloader(), "test")):
        rows = torch.cat([batch["row"] for batch in loader])
        assert rows.tolist() == module.rows[part].tolist()
        for batch in loader:
            for volume, label, row in zip(
                batch["volume"], batch["label"], batch["row"], strict=True
            ):
                stored = np.moveaxis(module.cohort.volumes.data[row], 1, -1)
                np.testing.assert_array_equal(volume, stored)
                assert module.class_names[label] == module.cohort.labels[row]


def test_prediction_serves_the_test_part_and_then_the_validation_part(data):
    module = data(batch_size=3)
    served = [batch["row"].tolist() for batch in module.predict_dataloader()]
    test, val = (module.rows[part].tolist() for part in ("test", "val"))
    assert np.concatenate(served).tolist() == test + val
    assert all(set(rows) <= set(test) or set(rows) <= set(val) for rows in served)
    assert len(module.predict_dataloader()) == len(served)


def test_the_paper_protocol_has_no_validation_part_to_predict(data):
    module = data(splits=Splits(num_folds=3, num_repeats=1, protocol="paper"))
    served = [batch["row"].tolist() for batch in module.predict_dataloader()]
    assert np.concatenate(served).tolist() == module.rows["test"].tolist()


def test_training_serves_augmented_copies_that_change_with_the_epoch(data):
    module = data()
    copies = load_copies(
        module.cohort.volumes, module.augmentation, module.splits.seed, module.cohort.cache_dir
    )
    served = []
    for epoch in (0, 1, 2):
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        chosen = {}
        for batch in loader:
            for volume, row in zip(batch["volume"], batch["row"].tolist(), strict=True):
                versions = [np.moveaxis(version, 1, -1) for version in copies[row]]
                (chosen[row],) = (
                    k for k, version in enumerate(versions) if np.array_equal(version, volume)
                )
        assert sorted(chosen) == module.rows["train"].tolist()
        served.append(chosen)
    assert served[0] != served[1] != served[2]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_fresh_copies_are_a_function_of_seed_epoch_and_scan(data, num_workers):
    module = data(augmentation=Augmentation(mode="fresh"), num_workers=num_workers)
    loader = module.train_dataloader()
    loader.sampler.set_epoch(4)
    batch = next(iter(loader))
    row = int(batch["row"][1])
    volume = torch.from_numpy(np.moveaxis(module.cohort.volumes.data[row], 1, -1).copy()).float()
    spacing = module.cohort.volumes.spacings_mm[row]
    seeds = [draw_seed(module.seed, 4, row)]
    (expected,) = make_copies(volume[None], spacing[None], module.augmentation, seeds)
    copies = module.on_after_batch_transfer(batch, 0)["volume"]
    torch.testing.assert_close(copies[1], module.intensity.scale(expected), atol=1e-6, rtol=0)


def test_paper_protocol_validates_on_the_test_patients(data):
    module = data(splits=Splits(num_folds=3, num_repeats=1, protocol="paper"))
    assert module.rows["val"].tolist() == module.rows["test"].tolist()
    assert not module.training_patients & module.held_out_patients


def test_splits_of_other_patients_are_refused(data, tmp_path):
    module = data()
    table = module.splits_table
    table[table["patient_id"] != "p03"].to_csv(tmp_path / "splits.csv", index=False)
    with pytest.raises(ValueError, match=r"1 patients are not in the splits .*first: 'p03'"):
        data(splits=Splits(path=str(tmp_path / "splits.csv")))


def test_label_counts_are_those_of_the_training_scans_alone(data):
    module = data(fold=1)
    labels = [module.cohort.labels[row] for row in module.rows["train"]]
    assert module.training_label_counts == [labels.count("healthy"), labels.count("unhealthy")]
    assert sum(module.training_label_counts) < len(module.cohort.labels)


def test_balanced_sampling_serves_a_rare_class_as_often_while_training_alone(data):
    module = data(sampling="balanced", augmentation=Augmentation(mode="none"))
    train = module.rows["train"]
    rare = train[:3]
    module.labels[:] = 0
    module.labels[rare] = 1
    sampler = module.train_dataloader().sampler
    drawn = np.concatenate([batch.rows for batch in sampler])
    assert len(drawn) == len(train)
    assert np.isin(drawn, rare).sum() == pytest.approx(len(train) / 2, abs=0.5)
    assert set(drawn) <= set(train)
    assert np.concatenate([batch.rows for batch in module.val_dataloader().sampler]).tolist() == (
        module.rows["val"].tolist()
    )


@pytest.mark.parametrize("mode", ["copies", "fresh"])
def test_a_scan_that_is_served_twice_in_an_epoch_comes_in_two_versions(data, mode):
    augmentation = Augmentation(mode=mode, num_versions=3)
    module = data(sampling="balanced", augmentation=augmentation)
    rare = module.rows["train"][:2]
    module.labels[:] = 0
    module.labels[rare] = 1
    loader = module.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        copies = {row: [] for row in rare}
        for batch in loader:
            rows = batch["row"].tolist()
            volumes = module.on_after_batch_transfer(batch, 0)["volume"]
            for row, volume in zip(rows, volumes, strict=True):
                if row in copies:
                    copies[row].append(volume.numpy().tobytes())
        for served in copies.values():
            assert len(served) > 2
            num_versions = 3 if mode == "copies" else len(served)
            assert len(set(served)) == min(len(served), num_versions)
            assert len(set(served[:num_versions])) == min(len(served), num_versions)


@pytest.mark.slow
def test_state_travels_to_a_new_module(data):
    module = data()
    other = data(fold=2)
    assert other.intensity != module.intensity
    other.load_state_dict(module.state_dict())
    assert other.intensity == module.intensity


@pytest.mark.slow
def test_a_checkpoint_of_other_preprocessing_or_classes_is_refused(data):
    state = data().state_dict()
    other = data(preprocessing=Preprocessing(spatial_shape=(8, 8, 8), fit="resize"))
    with pytest.raises(ValueError, match=r"preprocessing\.fit crop_or_pad, not resize"):
        other.load_state_dict(state)
    turned = data(classes=["unhealthy", "healthy"])
    with pytest.raises(ValueError, match="trained for the classes"):
        turned.load_state_dict(state)


def test_without_a_table_the_user_is_told_how_to_give_one():
    with pytest.raises(ValueError, match="Give DATA="):
        ScanDataModule()


@pytest.mark.slow
def test_another_fold_of_a_module_shares_its_cohort_and_equals_a_new_module(data):
    module, new = data(), data(fold=1)
    first_rows, first_scans = module.rows, module.training_scans
    other = module.with_fold(0, 1)
    other.setup("fit")
    assert other.cohort is module.cohort
    assert other.splits_table is module.splits_table
    assert other.intensity == new.intensity != module.intensity
    for part, rows in new.rows.items():
        np.testing.assert_array_equal(other.rows[part], rows)
    assert other.training_patients == new.training_patients
    for name, values in new.training_scans.items():
        torch.testing.assert_close(other.training_scans[name], values)
    assert module.rows is first_rows
    assert module.training_scans is first_scans


def test_a_share_of_the_training_patients_of_given_splits_is_refused(data, tmp_path):
    module = data()
    module.splits_table.to_csv(tmp_path / "splits.csv", index=False)
    given = Splits(path=str(tmp_path / "splits.csv"), train_fraction=0.5)
    with pytest.raises(
        ValueError, match=r"train_fraction is 0\.5, but the splits .*splits\.csv tell"
    ):
        data(splits=given)
