"""The target of a regression: its scale in a fold, its quantiles, the datamodule that serves it."""

import numpy as np
import pytest
from targets import write_brightness

from datamodules.augmentation import Augmentation
from datamodules.preprocessing import Preprocessing
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits, make_splits, patients_of
from datamodules.target import TargetScale, fit_target, target_strata, target_values


def served(folder, **settings):
    return ScanDataModule(
        str(write_brightness(folder / "data", range(10))),
        preprocessing=Preprocessing(spatial_shape=(12, 12, 12)),
        augmentation=Augmentation(mode="none"),
        splits=Splits(num_folds=3, num_repeats=1),
        cache_dir=str(folder / "cache"),
        task="regression",
        **settings,
    )


def test_cells_are_read_as_numbers_and_nothing_else_is():
    assert target_values(["34.2", "34,2", "1e2", " -3 "]) == pytest.approx([34.2, 34.2, 100, -3])
    with pytest.raises(ValueError, match=r"'89\+' is no number"):
        target_values(["89+"])


def test_the_scale_turns_back_what_it_standardised_and_needs_two_values():
    values = np.array([3.0, 5.0, 10.0])
    scale = fit_target(values)
    assert (scale.mean, scale.sd) == pytest.approx((values.mean(), values.std()))
    np.testing.assert_allclose(scale.restore(scale.standardise(values)), values, rtol=1e-6)
    with pytest.raises(ValueError, match="have the target 2: there is nothing to learn"):
        fit_target(np.array([2.0, 2.0]))


def test_folds_are_even_in_the_quantiles_of_the_target():
    generator = np.random.default_rng(0)
    values, patients = generator.gamma(2, 10, 53), [f"p{n}" for n in range(53)]
    strata = target_strata(values, patients, 5)
    assert len(set(strata)) == 5
    table = make_splits(patients, strata, Splits(num_repeats=2))
    for fold in range(5):
        parts = patients_of(table, 1, fold)
        assert len(parts["test"]) in (10, 11)
        for stratum in set(strata):
            number = sum(strata[int(who[1:])] == stratum for who in parts["test"])
            assert number in (2, 3)


def test_there_are_as_many_quantiles_as_have_a_patient_for_each_fold():
    values = np.array([0.0] * 9 + [1, 2, 3, 4])
    assert len(set(target_strata(values, [str(n) for n in range(13)], 4))) == 2
    assert target_strata(np.arange(5.0), list("abcde"), 5) == ["any"] * 5
    with pytest.raises(ValueError, match="4 patients with a target, too few for 5 folds"):
        target_strata(np.arange(4.0), list("abcd"), 5)


def test_a_fold_is_standardised_on_its_training_patients_and_a_checkpoint_carries_that(tmp_path):
    data = served(tmp_path)
    other = data.with_fold(0, 1)
    for fold in (data, other):
        fold.setup("fit")
        trained = data.cohort.targets[fold.rows["train"]]
        assert fold.target_scale.mean == pytest.approx(trained.mean())
        assert fold.target_scale.sd == pytest.approx(trained.std())
        batch = next(iter(fold.plain_training_batches()))
        expected = (data.cohort.targets[batch["row"]] - trained.mean()) / trained.std()
        np.testing.assert_allclose(batch["label"].numpy(), expected, rtol=1e-5)
        assert batch["label"].dtype == batch["volume"].float().dtype
    assert data.target_scale != other.target_scale
    other.load_state_dict(data.state_dict())
    assert (
        other.target_scale == data.target_scale == TargetScale(**data.state_dict()["target_scale"])
    )
    assert data.facts()["num_classes"] == 1
    classes = {**data.state_dict(), "classes": ["a", "b"]}
    del classes["target_scale"]
    with pytest.raises(ValueError, match="predicts classes: drop --data"):
        other.load_state_dict(classes)


def test_settings_for_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="A regression has no classes"):
        served(tmp_path, sampling="balanced")
    with pytest.raises(ValueError, match="A regression has no classes"):
        served(tmp_path, classes=["a", "b"])
