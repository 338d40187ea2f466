"""A finished run on patients from elsewhere."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from people import write_people

import main
from evaluation.predictions import read_predictions


@pytest.fixture
def evaluate(finished_run, tmp_path):
    def run(table, name="out", source=finished_run):
        places = [f"--data={table}", f"--out={tmp_path / name}", f"--cache_dir={tmp_path / 'c'}"]
        return main.main(["evaluate", f"--run={source}", *places])

    return run


@pytest.mark.slow
def test_every_figure_is_written_next_to_what_was_lost(evaluate, finished_run, tmp_path, capsys):
    table = write_people(tmp_path / "hospital", range(100, 130), labelled=True)
    assert evaluate(table) == 0
    out = tmp_path / "out"
    predictions = read_predictions(out / "predictions.csv")
    assert len(predictions) == 30
    new = [f"--data={table}", f"--out={tmp_path / 'new'}", f"--cache_dir={tmp_path / 'c'}"]
    assert main.main(["predict", f"--run={finished_run}", *new]) == 0
    predicted = read_predictions(tmp_path / "new/predictions.csv").set_index("image")
    columns = ["prob_healthy", "prob_unhealthy"]
    np.testing.assert_allclose(
        predictions[columns], predicted.loc[predictions["image"], columns], atol=1e-8
    )
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_patients"] == 30
    found = json.loads((out / "external.json").read_text())["drops"]["auroc"]
    at_home = json.loads((finished_run / "metrics.json").read_text())
    assert found["at_home"] == pytest.approx(at_home["mean"]["auroc"])
    assert found["drop"] == pytest.approx(found["at_home"] - found["elsewhere"])
    low, high = found["interval_95"]
    assert low < found["drop"] < high
    said = capsys.readouterr().out
    for words in ("a drop of", "With new intercepts alone", "unlike the training scans"):
        assert words in said
        assert words in (out / "report.md").read_text()
        assert words in (out / "report.html").read_text()
    assert main.main(["verify", f"--run={out}"]) == 0


@pytest.mark.slow
def test_scans_unlike_the_training_scans_are_listed(evaluate, tmp_path):
    table = write_people(tmp_path / "hospital", range(100, 112), labelled=True)
    odd = 1000 * np.random.default_rng(0).random((12, 12, 12))
    nib.save(nib.Nifti1Image(odd, np.eye(4)), tmp_path / "hospital/103.nii.gz")
    assert evaluate(table) == 0
    listed = pd.read_csv(tmp_path / "out/warnings.csv").set_index("patient_id")
    assert "up-down voxel size 1 mm, trained on 2" in listed.loc["person103", "warnings"]


@pytest.mark.slow
def test_patients_and_scans_that_the_run_has_seen_are_refused_by_name(
    evaluate, finished_run, tmp_path, capsys
):
    table = write_people(tmp_path / "hospital", range(11, 21), labelled=True)
    assert evaluate(table) == 2
    assert "1 patient of" in (told := capsys.readouterr().err)
    assert "person11" in told
    table = write_people(tmp_path / "other", range(100, 110), labelled=True)
    shutil.copy(finished_run.parent / "data/3.nii.gz", tmp_path / "other/103.nii.gz")
    assert evaluate(table) == 2
    assert "person103" in (told := capsys.readouterr().err)
    assert "under other names" in told
    assert not (tmp_path / "out/predictions.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("unhealthy", "ill"), "'ill'"),
        ((",unhealthy", ","), "label is empty"),
        ((",label", ",group"), "no scan has a label"),
        ((",unhealthy", ",healthy"), "no patient of the class 'unhealthy'"),
    ],
)
def test_labels_that_the_run_does_not_know_are_refused(evaluate, tmp_path, capsys, change, words):
    table = write_people(tmp_path / "hospital", range(100, 110), labelled=True)
    table.write_text(table.read_text().replace(*change))
    assert evaluate(table) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "--data." not in told


def test_what_is_no_finished_run_is_refused(evaluate, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    table = write_people(tmp_path / "hospital", range(100, 110), labelled=True)
    assert evaluate(table, source=tmp_path / "empty") == 2
    assert "no out-of-fold predictions" in capsys.readouterr().err
