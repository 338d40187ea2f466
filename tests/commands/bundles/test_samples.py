from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from people import write_people
from scipy.stats import entropy
from torch import nn

import main
from commands.bundles.ensemble import fold_model, input_batches, open_ensemble
from commands.bundles.samples import Samples, dropout_layers
from commands.predict import patient_table
from commands.reporting.page import open_cohort
from commands.runs.run_folder import read_config
from datamodules.augmentation import Augmentation
from datamodules.augmented_copies import load_copies
from evaluation.doubt import doubt_of
from evaluation.predictions import read_predictions

PROBS = ["prob_healthy", "prob_unhealthy"]
ROWS = np.arange(12)


@pytest.fixture
def opened(finished_run):
    """The ensemble of the finished run, its first model, its cohort."""
    ensemble = open_ensemble(finished_run)
    fold = fold_model(ensemble, ensemble.members[0], finished_run)
    return ensemble, fold, open_cohort(read_config(finished_run))


@pytest.mark.slow
def test_copies_are_those_of_training_and_the_first_is_the_scan_as_it_is(opened, tmp_path):
    ensemble, fold, cohort = opened
    settings = {"mode": "fresh", "degrees": 20.0, "translation_mm": 2.0}
    turned = replace(ensemble, augmentation=settings)
    cohort.cache_dir = tmp_path
    copies = Samples(tta=3).copies(turned, cohort)
    drawn = Augmentation(**settings | {"mode": "copies", "num_versions": 3})
    np.testing.assert_array_equal(copies, load_copies(cohort.volumes, drawn, 0, tmp_path))
    found = Samples(tta=3).predict(fold, cohort, copies, seed=0)
    ((volume, _),) = input_batches(cohort, ROWS)
    np.testing.assert_allclose(found[0], fold(volume), atol=1e-6)
    assert np.abs(found[1] - found[0]).max() > 1e-3
    with pytest.raises(ValueError, match="needs the augmentation of the run"):
        Samples(tta=3).copies(ensemble, cohort)


@pytest.mark.slow
def test_only_dropout_is_on_and_its_samples_average_to_what_many_passes_give(opened):
    ensemble, fold, cohort = opened
    copies = Samples().copies(ensemble, cohort)
    samples = Samples(mc_dropout=40)
    found = samples.predict(fold, cohort, copies, seed=0)
    assert found.shape == (40, 12, 2)
    assert not any(layer.training for layer in fold.modules())
    np.testing.assert_array_equal(found, samples.predict(fold, cohort, copies, seed=0))
    one = replace(cohort.volumes, data=cohort.volumes.data[5:6], keys=cohort.volumes.keys[5:6])
    cohort.volumes = one
    alone = samples.predict(fold, cohort, copies[5:6], seed=0)
    np.testing.assert_allclose(alone[:, 0], found[:, 5], atol=1e-6)
    fold.model.head.train()  # has no layer but dropout that training changes
    torch.manual_seed(1)
    many = torch.stack([fold(torch.from_numpy(_as_input(copies[5:6]))) for _ in range(400)])
    sd = many.std(0).numpy() / np.sqrt(40)
    assert (np.abs(found[:, 5].mean(0) - many.mean(0).numpy()[0]) < 4 * sd[0]).all()
    assert sd.min() > 0
    with pytest.raises(ValueError, match="needs a run with dropout"):
        dropout_layers(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))


def _as_input(copy):
    return np.moveaxis(np.asarray(copy[:, 0], np.float32), 2, -1)


@pytest.mark.slow
def test_predict_writes_doubt_where_it_is_asked_for_and_else_what_it_always_wrote(
    finished_run, opened, tmp_path, capsys
):
    table = write_people(tmp_path / "new", range(100, 104), labelled=False)

    def predict(*more):
        places = [f"--data={table}", f"--out={tmp_path / 'out'}", f"--cache_dir={tmp_path / 'c'}"]
        assert main.main(["predict", f"--run={finished_run}", *places, *more]) == 0
        return read_predictions(tmp_path / "out/predictions.csv")

    plain, models = predict(), predict("--tta=1")
    more = ["entropy", "mutual_information"]
    assert list(models.columns) == [*plain.columns[:-1], *more, "warnings"]
    np.testing.assert_allclose(models[PROBS], plain[PROBS], atol=1e-6)
    np.testing.assert_allclose(models["entropy"], entropy(plain[PROBS], axis=1), atol=1e-6)
    ensemble, _, _ = opened
    cohort = ensemble.cohort(str(table), str(tmp_path / "c"))
    ((volume, _),) = input_batches(cohort, np.arange(4))
    each = np.stack([fold_model(ensemble, m, finished_run)(volume) for m in ensemble.members])
    expected = entropy(each.mean(0), axis=1) - entropy(each, axis=2).mean(0)
    np.testing.assert_allclose(models["mutual_information"], expected, atol=1e-6)
    dropped = predict("--mc_dropout=5")
    assert (dropped["mutual_information"] >= 0).all()
    assert (dropped[PROBS] != models[PROBS]).any(axis=None)
    assert "with dropout on: 5" in (tmp_path / "out/report.md").read_text()


def test_the_doubt_of_a_patient_is_that_of_all_samples_of_all_scans():
    probs = np.random.default_rng(0).dirichlet([1, 2], size=(7, 6))  # samples, scans
    patients = np.array(["b", "a", "b", "a", "a", "c"])
    scans = pd.DataFrame({"patient_id": patients, "image": list("uvwxyz"), "warnings": ""})
    scans[["prob_ill", "prob_well"]] = probs.mean(0)
    scans = scans.assign(predicted="ill", confidence=0.0, spread=0.0, **doubt_of(probs))
    table = patient_table(scans).set_index("patient_id")
    for name in "ab":
        samples = probs[:, patients == name].reshape(-1, 1, 2)
        for score, expected in doubt_of(samples).items():
            assert table.loc[name, score] == pytest.approx(expected[0])
