"""Numbers in the place of classes, from the table to the bundle."""

import json
import shutil

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from report_text import report_text
from targets import write_brightness, write_ventricles

import main
from commands.bundles.scan_prediction import predict_scan
from evaluation.predictions import read_predictions
from evaluation.regression import regression_estimates


def settings(folder, table, run, **more):
    flags = {
        "data.table": table,
        "data.task": "regression",
        "data.cache_dir": folder / "cache",
        "data.augmentation.num_versions": 4,
        "trainer.accelerator": "cpu",
        "wandb": "disabled",
        "run": folder / run,
    } | more
    return ["-cconfigs/finetune.yaml", *(f"--{name}={value}" for name, value in flags.items())]


SMALL = {
    "data.preprocessing.spatial_shape": "[12,12,12]",
    "data.preprocessing.spacing_mm": "[1,1,2]",
    "data.splits.num_folds": 3,
    "data.splits.num_repeats": 2,
    "data.batch_size": 4,
    "model.filters": 4,
    "model.depth": 2,
    "model.lr": 0.01,
    "trainer.max_epochs": 40,
}


@pytest.fixture(scope="module")
def number_run(tmp_path_factory):
    """A run of three folds and two repeats on 30 people; tests must not change it."""
    folder = tmp_path_factory.mktemp("numbers")
    table = write_brightness(folder / "data", range(30))
    assert main.main(["finetune", *settings(folder, table, "run", **SMALL)]) == 0
    return folder / "run"


@pytest.mark.slow
def test_the_default_reaches_r2_of_0_9_on_a_known_function_of_the_image(tmp_path):
    table = write_ventricles(tmp_path / "data", 48)
    flags = {"data.splits.num_repeats": 1, "trainer.max_epochs": 60}
    assert main.main(["finetune", *settings(tmp_path, table, "run", **flags)]) == 0
    assert main.main(["verify", f"--run={tmp_path / 'run'}"]) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["mean"]["r2"] >= 0.9
    low, high = metrics["interval_95"]["mae"]
    assert low < metrics["mean"]["mae"] < high < metrics["mean_predictor"]["mae"]


@pytest.mark.slow
def test_a_run_writes_tables_figures_pictures_and_reports(number_run, capsys):
    predictions = read_predictions(number_run / "predictions.csv")
    columns = ["patient_id", "image", "repeat", "fold", "target", "predicted"]
    assert list(predictions.columns) == columns
    assert len(predictions) == 60
    metrics = json.loads((number_run / "metrics.json").read_text())
    assert metrics["mean"] == pytest.approx(regression_estimates(predictions))
    assert metrics["mean"]["r"] > 0.5
    ranking = pd.read_csv(number_run / "ranking.csv")
    assert ranking["spread"].is_monotonic_decreasing
    assert main.main(["verify", f"--run={number_run}"]) == 0
    page = report_text((number_run / "report.html").read_text())
    assert "better than the mean of the training patients" in page["top"]
    assert "number in the column target" in page["patients"]
    assert "Mean absolute error (MAE)" in page["performance"]
    assert "sex" in page["performance"]
    assert "Calibration slope" in page["calibration"]
    assert "what raises the predicted number" in (number_run / "report.html").read_text()
    markdown = (number_run / "report.md").read_text()
    for name in ("predicted.png", "errors.png", "spread.png"):
        assert (number_run / name).is_file()
        assert name in markdown
    assert "nan" not in markdown
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_classical_methods_and_a_2d_network_are_compared_on_the_same_folds(number_run, tmp_path):
    folder = number_run.parent
    flags = settings(folder, folder / "data/cohort.csv", "classical", **SMALL)
    assert main.main(["classical", *flags]) == 0
    slices = {
        "model": "lightning_modules.imagenet_baseline.ImageNetBaseline",
        **{"model.weights": "none", "model.num_slices": 2, "model.image_size": 32},
        **{name: value for name, value in SMALL.items() if not name.startswith("model")},
        "trainer.max_epochs": 1,
    }
    flags = settings(folder, folder / "data/cohort.csv", "slices", **slices)
    assert main.main(["finetune", *flags]) == 0
    names = f"{number_run} {folder / 'classical'} {folder / 'slices'}"
    place = f"--run={tmp_path / 'compared'}"
    votes = f"--ensemble={number_run} ridge"
    assert main.main(["compare", f"--runs={names}", place, votes]) == 0
    table = pd.read_csv(tmp_path / "compared/comparison.csv", index_col="run")
    expected = {"run", "ridge", "svr", "k-nearest-neighbours", "mean", "covariates", "slices"}
    assert set(table.index) == expected | {"mean vote"}
    assert table.loc["mean", "mae_diff_low"] > 0
    # with two repeats the p value hangs on the processor, but not that the sentence goes by it
    said = "is worse than" if table.loc["mean", "p_mae_holm"] < 0.05 else "cannot be told from"
    assert f"mean {said} run" in (tmp_path / "compared/report.md").read_text()
    one = read_predictions(folder / "classical/mean/predictions.csv")
    metrics = json.loads((number_run / "metrics.json").read_text())
    assert regression_estimates(one)["mae"] == pytest.approx(metrics["mean_predictor"]["mae"])
    copy = shutil.copytree(number_run, tmp_path / "run")
    assert main.main(["report", f"--run={copy}", f"--others={folder / 'classical'}"]) == 0
    assert "Paired MAE difference" in (copy / "report.html").read_text()


@pytest.mark.slow
def test_new_scans_and_patients_from_elsewhere_are_predicted(number_run, tmp_path, capsys):
    table = write_brightness(tmp_path / "hospital", range(100, 112))
    places = [f"--run={number_run}", f"--data={table}", f"--cache_dir={tmp_path / 'c'}"]
    assert main.main(["predict", *places, f"--out={tmp_path / 'new'}"]) == 0
    predicted = read_predictions(tmp_path / "new/ranking.csv")
    assert predicted["spread"].is_monotonic_decreasing
    assert main.main(["evaluate", *places, f"--out={tmp_path / 'there'}"]) == 0
    there = read_predictions(tmp_path / "there/predictions.csv").set_index("image")
    new = predicted.set_index("image").loc[there.index, "predicted"].astype(float)
    np.testing.assert_allclose(there["predicted"], new, atol=1e-6)
    lost = json.loads((tmp_path / "there/external.json").read_text())["drops"]["mae"]
    assert lost["drop"] == pytest.approx(lost["elsewhere"] - lost["at_home"])
    assert lost["interval_95"][0] < lost["drop"] < lost["interval_95"][1]
    said = capsys.readouterr().out
    assert "The mean absolute error of one model is" in said
    assert "With a new intercept alone" in (tmp_path / "there/report.html").read_text()
    assert main.main(["verify", f"--run={tmp_path / 'there'}"]) == 0


@pytest.mark.slow
def test_numbers_of_another_program_become_a_run_with_the_same_figures(
    number_run, tmp_path, capsys
):
    theirs = read_predictions(number_run / "predictions.csv").drop(columns="target")
    path, table = tmp_path / "theirs.csv", number_run.parent / "data/cohort.csv"
    more = {"data.splits.path": number_run, "predictions": path}
    flags = settings(tmp_path, table, "imported", **SMALL, **more)
    theirs.replace({"predicted": {theirs["predicted"][7]: "much"}}).to_csv(path, index=False)
    assert main.main(["import_predictions", *flags]) == 2
    assert "is 'much', not a number" in capsys.readouterr().err
    theirs.to_csv(path, index=False)
    assert main.main(["import_predictions", *flags]) == 0
    ours, imported = (
        json.loads((run / "metrics.json").read_text())["mean"]
        for run in (number_run, tmp_path / "imported")
    )
    assert imported == pytest.approx(ours)
    assert main.main(["verify", f"--run={tmp_path / 'imported'}"]) == 0


@pytest.mark.slow
def test_a_bundle_predicts_the_same_numbers_as_its_run(number_run, tmp_path):
    image = number_run.parent / "data/3.nii.gz"
    bundle = tmp_path / "bundle"
    assert main.main(["export", f"--run={number_run}", f"--out={bundle}"]) == 0
    value = predict_scan(image, number_run)["value"]
    assert predict_scan(image, bundle)["value"] == pytest.approx(value)
    session = onnxruntime.InferenceSession(next(bundle.glob("models/*.onnx")))
    assert [(each.name, each.shape[1]) for each in session.get_outputs()] == [("value", 1)]
    assert json.loads((bundle / "configs/metadata.json").read_text())["task"].startswith("Predict")
    one = predict_scan(image, number_run / "repeat0_fold0/best.ckpt")["value"]
    assert abs(one - value) < 30


@pytest.mark.slow
def test_sanity_checks_ask_whether_shuffled_targets_are_learnt(number_run, tmp_path, capsys):
    run = shutil.copytree(number_run, tmp_path / "run")
    assert main.main(["sanity", f"--run={run}"]) == 0
    headers, shuffled = json.loads((run / "sanity.json").read_text())["checks"]
    assert headers["warning"]  # the mean brightness tells the target
    assert not shuffled["warning"]
    assert "interval then lies above 0 by chance" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["89+", *["40"] * 4, "50"], "patient"),
        ([*["40"] * 6], "all scans have the target 40"),
        (["40", "50", "n/a", "", "60", "x"], "4 errors"),
    ],
)
def test_a_table_with_odd_targets_is_refused_before_training(tmp_path, capsys, cells, words):
    table = write_brightness(tmp_path / "data", range(6), cells)
    flags = settings(tmp_path, table, "run", **SMALL)
    assert main.main(["finetune", *flags, "--only=prepare"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "error to fix" in said or "errors to fix" in said
    if words not in ("patient", "4 errors"):
        assert words in said
