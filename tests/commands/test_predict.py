import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio
from people import write_people

import main
from commands.bundles.ensemble import fold_model, open_ensemble, volume_batches
from commands.bundles.reference import distances
from datamodules.cohort import Cohort
from datamodules.reading.cohort_table import Columns
from datamodules.window import window
from evaluation.calibration import Calibration, apply_calibration, fit_calibration
from evaluation.predictions import read_predictions, with_decision
from lightning_modules.classifier import Classifier
from lightning_modules.deployment import FoldModel

NUM_FOLDS = 3
SHAPE = (12, 12, 12)


@pytest.fixture
def predict(finished_run, tmp_path):
    """Return a function that predicts a table and answers the folder of the results."""

    def predict_table(table, source=finished_run):
        flags = [f"--run={source}", f"--data={table}", f"--out={tmp_path / 'out'}"]
        code = main.main(["predict", *flags, f"--cache_dir={tmp_path / 'cache'}"])
        return tmp_path / "out" if code == 0 else code

    return predict_table


def test_each_fold_repeats_what_the_run_predicted_for_its_test_scans(finished_run, tmp_path):
    ensemble = open_ensemble(finished_run)
    cohort = Cohort(
        str(finished_run.parent / "data/cohort.csv"),
        Columns(),
        ensemble.preprocessing,
        str(tmp_path),
    )
    for fold, member in enumerate(ensemble.members):
        model = fold_model(ensemble, replace(member, calibration=None), finished_run)
        (volume,) = volume_batches(cohort.volumes, np.arange(12))
        probs = dict(zip(cohort.patients, model(volume)[:, 1].tolist(), strict=True))
        rows = read_predictions(finished_run / "predictions.csv").query(f"fold == {fold}")
        ours = [probs[patient] for patient in rows["patient_id"]]
        np.testing.assert_allclose(rows["prob_unhealthy"], ours, atol=1e-5)


@pytest.mark.slow
def test_new_scans_get_the_mean_of_all_folds_after_their_calibrations(
    finished_run, predict, tmp_path
):
    table = write_people(tmp_path / "new", range(100, 105), labelled=False)
    found = read_predictions(predict(table) / "predictions.csv")
    tested, tables = read_predictions(finished_run / "predictions.csv"), []
    for fold in range(NUM_FOLDS):
        folder = finished_run / f"repeat0_fold{fold}"
        model = Classifier.load_from_checkpoint(folder / "best.ckpt", weights_only=True).eval()
        saved = torch.load(folder / "best.ckpt", weights_only=True)["ScanDataModule"]
        images = [tio.ScalarImage(tmp_path / "new" / name) for name in found["image"]]
        raw = [tio.ToCanonical()(image).data[0].numpy() for image in images]
        windowed = [window(voxels, (0.5, 99.5), "foreground")[0][None] for voxels in raw]
        volume = torch.from_numpy(np.stack(windowed)).half().float()
        (mean,), (divisor,) = saved["intensity"]["mean"], saved["intensity"]["divisor"]
        scaled = (volume - mean) / divisor
        probs = model(scaled).sigmoid().detach().numpy().astype(float)
        rows = pd.DataFrame({"prob_healthy": probs[:, 0], "prob_unhealthy": probs[:, 1]})
        tables.append(apply_calibration(rows, fit_calibration(tested.query(f"fold != {fold}"))))
    names = ["prob_healthy", "prob_unhealthy"]
    expected = with_decision(sum(rows[names] for rows in tables) / NUM_FOLDS)
    np.testing.assert_allclose(found[names], expected[names], atol=1e-5)
    assert found["predicted"].tolist() == expected["predicted"].tolist()
    np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-5)
    chosen = [
        [rows.loc[row, f"prob_{name}"] for rows in tables]
        for row, name in enumerate(found["predicted"])
    ]
    np.testing.assert_allclose(found["spread"], np.std(chosen, axis=1), atol=1e-5)


@pytest.mark.slow
def test_new_scans_are_ranked_and_their_labels_are_not_needed(predict, tmp_path):
    out = predict(write_people(tmp_path / "new", range(100, 112), labelled=False))
    predictions = read_predictions(out / "predictions.csv")
    columns = ["patient_id", "image", "prob_healthy", "prob_unhealthy"]
    columns += ["predicted", "confidence", "spread", "warnings"]
    assert list(predictions.columns) == columns
    assert predictions["patient_id"].tolist() == [f"person{n}" for n in range(100, 112)]
    ranking = read_predictions(out / "ranking.csv")
    assert list(ranking.columns) == ["rank", *columns]
    assert ranking["confidence"].is_monotonic_increasing
    report = (out / "report.md").read_text()
    assert f"| 1 | {ranking['patient_id'][0]} |" in report
    assert "not a medical device" in report


@pytest.mark.slow
def test_patients_with_several_scans_get_the_mean_of_their_scans(predict, tmp_path):
    table = write_people(tmp_path / "new", range(100, 104), labelled=False)
    assert not (predict(table) / "patients.csv").exists()
    table.write_text(table.read_text().replace("person103", "person100"))
    out = predict(table)
    scans = read_predictions(out / "predictions.csv")
    patients = read_predictions(out / "patients.csv").set_index("patient_id")
    assert patients["num_scans"].to_dict() == {"person100": 2, "person101": 1, "person102": 1}
    mean = scans.groupby("patient_id")["prob_unhealthy"].mean()
    np.testing.assert_allclose(patients["prob_unhealthy"][mean.index], mean, atol=1e-8)


@pytest.mark.parametrize("code", ["LPS", "PIR", "SAL"])
def test_a_scan_and_its_reoriented_copy_get_the_same_answer(predict, tmp_path, code):
    table = write_people(tmp_path / "new", [100], labelled=False)
    scan = nib.load(tmp_path / "new/100.nii.gz")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(scan.affine), nib.orientations.axcodes2ornt(code)
    )
    nib.save(scan.as_reoriented(turn), tmp_path / "new/turned.nii.gz")
    table.write_text(table.read_text() + "person100,turned.nii.gz\n")
    one, two = read_predictions(predict(table) / "predictions.csv").to_dict("records")
    for name in ("prob_healthy", "prob_unhealthy", "spread"):
        assert one[name] == pytest.approx(two[name], abs=1e-6)
    assert "orientation" not in str(one["warnings"])
    assert f"orientation {code}, trained on RAS" in two["warnings"]


@pytest.mark.slow
def test_scans_unlike_the_training_scans_are_warned_of(predict, tmp_path):
    table = write_people(tmp_path / "new", range(100, 108), labelled=False)
    noise = np.random.default_rng(0).random((12, 12, 12))
    right, front, _ = np.indices((12, 12, 12)) > 5
    voxels = 1000.0 * (noise - 5.0 * (right & front))  # a quarter is dark
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "new/other.nii.gz")
    table.write_text(table.read_text() + "person108,other.nii.gz\n")
    out = predict(table)
    *like, unlike = read_predictions(out / "predictions.csv")["warnings"]
    assert sum(words != "" for words in like) <= 2  # the farthest of a dozen is soon surpassed
    assert all("trained on" not in words for words in like)
    for words in ("up-down voxel size 1 mm, trained on 2", "raw intensities", "feature space"):
        assert words in unlike
    report = (out / "report.md").read_text()
    assert "of 9 scans have warnings" in report
    assert "| person108 | other.nii.gz | up-down" in report


def test_patients_of_the_training_cohort_are_not_passed_off_as_new(predict, tmp_path):
    table = write_people(tmp_path / "new", [3, 100], labelled=False)
    known, new = read_predictions(predict(table) / "predictions.csv")["warnings"]
    assert "patient known to 2 of 3 models: not out-of-fold" in known
    assert "known" not in new


def test_scans_of_the_training_cohort_are_known_under_other_ids(finished_run, predict, tmp_path):
    table = write_people(tmp_path / "new", [3, 4, 100], labelled=False)
    brighter = nib.load(tmp_path / "new/4.nii.gz")
    nib.save(
        nib.Nifti1Image(brighter.get_fdata() * 1.2 + 7, brighter.affine), tmp_path / "new/4.nii.gz"
    )
    text = table.read_text().replace("person3", "renamed3").replace("person4", "renamed4")
    table.write_text(text)
    same, altered, new = read_predictions(predict(table) / "predictions.csv")["warnings"]
    words = "a scan of the patient known to 2 of 3 models by another patient_id: not out-of-fold"
    assert words in same
    assert words in altered
    assert "known" not in new
    assert (
        "| renamed3 | 3.nii.gz | a scan of the patient known"
        in (tmp_path / "out/report.md").read_text()
    )


def test_a_missing_fold_is_named(finished_run, predict, tmp_path, capsys):
    broken = shutil.copytree(finished_run, tmp_path / "broken")
    (broken / "repeat0_fold1/finished.json").unlink()
    assert predict(finished_run.parent / "data/cohort.csv", broken) == 2
    error = capsys.readouterr().err
    assert "1 of 3 folds are missing (first: repeat0_fold1)" in error


def test_an_older_run_of_one_fold_says_that_it_cannot_compare_or_calibrate(
    finished_run, predict, tmp_path
):
    old = shutil.copytree(finished_run, tmp_path / "old")
    splits = pd.read_csv(old / "splits.csv", dtype=str)
    splits[splits["fold"] == "0"].to_csv(old / "splits.csv", index=False)
    for path in old.rglob("reference.json"):
        path.unlink()
    out = predict(write_people(tmp_path / "new", [100], labelled=False), old)
    report = (out / "report.md").read_text()
    assert "does not tell what its training scans were like" in report
    assert "not calibrated" in report


def test_the_reference_of_a_fold_is_that_of_its_training_scans_and_names_no_patient(
    finished_run, tmp_path
):
    text = (finished_run / "repeat0_fold0/reference.json").read_text()
    assert "person" not in text
    found = json.loads(text)
    parts = (
        pd.read_csv(finished_run / "splits.csv").query("fold == 0").set_index("patient_id")["part"]
    )
    assert found["num_scans"] == (parts == "train").sum()
    ensemble = open_ensemble(finished_run)
    table = str(finished_run.parent / "data/cohort.csv")
    cohort = Cohort(table, Columns(), ensemble.preprocessing, str(tmp_path))
    (volume,) = volume_batches(cohort.volumes, np.arange(12))
    model = fold_model(ensemble, ensemble.members[0], finished_run)
    maps = model.model.encoder(model.scale(volume)).numpy()
    assert maps.shape == (12, 4, 3, 3, 3)
    halves = (slice(0, 2), slice(1, 3))  # of three voxels, the middle one in both
    octants = [maps[:, :, w, h, d].mean((2, 3, 4)) for w in halves for h in halves for d in halves]
    features = np.stack(octants, 2).reshape(12, -1)
    trained = np.array([parts[patient] == "train" for patient in cohort.patients])
    np.testing.assert_allclose(found["feature_mean"], features[trained].mean(0), atol=1e-5)
    np.testing.assert_allclose(found["feature_sd"], features[trained].std(0), atol=1e-5)
    far = distances(ensemble.members[0].reference, features[~trained]).max()
    assert found["largest_distance"] == pytest.approx(far, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "RUN= DATA= OUT="),
        (["--run=none", "--data=README.md", "--out=b"], "RUN 'none' does not exist"),
        (["--run=./tests", "--data=README.md", "--out=b"], "There is no run in tests"),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, words, capsys):
    assert main.main(["predict", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_a_run_of_classical_methods_has_nothing_to_predict_with(predict, tmp_path, capsys):
    (tmp_path / "dummy").mkdir()
    (tmp_path / "dummy/config.yaml").write_text("data: {}\nmethod: dummy\n")
    assert predict("README.md", tmp_path / "dummy") == 2
    assert "has no network" in capsys.readouterr().err


@pytest.mark.parametrize("intercepts", [(0.0, 0.0, 0.0), (0.5, -1.0, 0.2)])
@pytest.mark.parametrize("slope", [0.2, 1.0, 2.0])
def test_a_fold_calibrates_its_outputs_as_the_tables_are_calibrated(slope, intercepts):
    torch.manual_seed(0)
    model = Classifier(3, SHAPE, filters=2, nodes=4)
    torch.nn.init.normal_(model.head[-1].weight, std=40)
    volume = torch.randn(6, 1, *SHAPE)
    logits = model.eval()((volume - 0.3) / 1.7).detach()
    assert logits.abs().max() > 14  # beyond where calibration cuts
    probs = logits.double().sigmoid().numpy()
    table = pd.DataFrame({f"prob_{name}": probs[:, k] for k, name in enumerate("abc")})
    calibrated = apply_calibration(table, Calibration(slope, intercepts))
    expected = calibrated[[f"prob_{name}" for name in "abc"]]
    found = FoldModel(model, 0.3, 1.7, slope, intercepts)(volume)
    np.testing.assert_allclose(found, expected, atol=2e-6)
