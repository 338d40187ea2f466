import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.properties import MetaProperties
from people import write_people
from report_text import report_text

import main
from commands.bundles.ensemble import SPEC, as_spec, open_ensemble, volume_batches
from datamodules.cohort import Cohort
from datamodules.reading.cohort_table import Columns
from evaluation.calibration import Calibration
from evaluation.predictions import read_predictions
from lightning_modules.classifier import Classifier
from lightning_modules.deployment import FoldModel, MeanModel, onnx_difference, write_onnx


def test_the_mean_of_folds_is_the_mean_of_their_probabilities():
    torch.manual_seed(0)
    shape = (6, 6, 6)
    folds = [FoldModel(Classifier(2, shape, filters=2, nodes=4), k, 2.0, 1.5) for k in range(3)]
    volume = torch.randn(4, 1, *shape)
    expected = sum(fold(volume) for fold in folds) / 3
    torch.testing.assert_close(MeanModel(folds)(volume), expected)


@pytest.mark.slow
def test_a_bundle_tells_neither_patients_nor_paths(finished_run):
    text = json.dumps(as_spec(open_ensemble(finished_run)))
    for private in ("person", "seen_patients", str(finished_run.parent), "cohort.csv", ".ckpt"):
        assert private not in text


def test_a_bundle_of_before_has_a_temperature_and_no_intercepts(finished_run, tmp_path):
    spec = json.loads(json.dumps(as_spec(open_ensemble(finished_run))))
    (tmp_path / "configs").mkdir()

    def opened():
        (tmp_path / SPEC).write_text(json.dumps(spec))
        return [member.calibration for member in open_ensemble(tmp_path).members]

    assert opened() == [member.calibration for member in open_ensemble(finished_run).members]
    for member, temperature in zip(spec["members"], (2.0, 0.5, None), strict=True):
        del member["calibration"]
        member["temperature"] = temperature
    del spec["labels_per"]
    assert opened() == [Calibration(0.5, (0.0, 0.0)), Calibration(2.0, (0.0, 0.0)), None]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"--run": "none"}, "RUN 'none' does not exist"),
        ({}, "RUN="),
        ({"--run": "{run}", "--out": "{run}"}, "exists already"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(finished_run, settings, words, capsys):
    flags = [f"{name}={value.format(run=finished_run)}" for name, value in settings.items()]
    assert main.main(["export", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


@pytest.mark.slow  # ONNX's exporter takes two seconds a network
def test_a_bundle_loads_back_and_predicts_the_same(finished_run, tmp_path, capsys, monkeypatch):
    bundle, cache = tmp_path / "bundle", f"--cache_dir={tmp_path / 'cache'}"
    assert main.main(["export", f"--run={finished_run}", f"--out={bundle}", cache]) == 0
    assert "on 8 scans of the run's cohort" in capsys.readouterr().out
    table = write_people(tmp_path / "new", range(100, 106), labelled=False)
    moved = shutil.move(bundle, tmp_path / "elsewhere")
    for source in (finished_run, moved):
        out = f"--out={tmp_path / f'by_{source.name}'}"
        flags = [f"--run={source}", f"--data={table}", out, cache]
        assert main.main(["predict", *flags]) == 0
    ours, theirs = (
        read_predictions(tmp_path / name / "predictions.csv") for name in ("by_run", "by_elsewhere")
    )
    assert theirs.equals(ours)

    ensemble = open_ensemble(moved)
    cohort = Cohort(str(table), Columns(), ensemble.preprocessing, str(tmp_path / "cache"))
    (volume,) = volume_batches(cohort.volumes, np.arange(6))
    parser = ConfigParser()
    parser.read_config(moved / "configs/inference.json")
    parser["bundle_root"] = str(moved)
    network = parser.get_parsed_content("network_def")
    probs = ours[["prob_healthy", "prob_unhealthy"]].to_numpy()
    np.testing.assert_allclose(network(volume), probs, atol=1e-6)
    graphs = sorted((moved / "models").glob("*.onnx"))
    assert len(graphs) == 3
    outputs = [
        onnxruntime.InferenceSession(path).run(None, {"volume": volume.float().numpy()})[0]
        for path in graphs
    ]
    np.testing.assert_allclose(np.mean(outputs, axis=0), probs, atol=1e-4)

    parser.read_meta(moved / "configs/metadata.json")
    for name, field in MetaProperties.items():
        assert parser.get(field["id"]) is not None, name
    assert parser["_meta_::network_data_format::inputs::image::spatial_shape"] == [12, 12, 12]
    assert parser["_meta_::network_data_format::outputs::pred::channel_def"] == {
        "0": "healthy",
        "1": "unhealthy",
    }
    card = (moved / "docs/README.md").read_text()
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert f"| AUROC | {metrics['mean']['auroc']:.3f} |" in card
    for words in ("Intended use", "Not a medical device", "12 scans of 12 patients", "Limits"):
        assert words in card
    *_, example = re.findall("```python\n(.*?)```", card, re.DOTALL)
    shutil.copy(tmp_path / "new/103.nii.gz", tmp_path / "scan.nii.gz")
    moved.rename(tmp_path / "BUNDLE")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    of_scan = ours.loc[ours["image"] == "103.nii.gz", ["prob_healthy", "prob_unhealthy"]]
    np.testing.assert_allclose(names["probs"], of_scan.to_numpy()[0], atol=1e-4)
    report = report_text((finished_run / "report.html").read_text())["card"]
    for heading in re.findall("^## (.*)$", card, re.MULTILINE)[:9]:  # the rest is on the files
        words = card.partition(f"## {heading}\n\n")[2].partition("\n")[0]
        assert f"{heading} {words}".replace("`", "") in report
    for path in moved.rglob("*.json"):
        assert "person" not in path.read_text()


@pytest.mark.slow
def test_a_run_without_its_scans_is_checked_on_random_volumes(finished_run, tmp_path, capsys):
    lonely = shutil.copytree(finished_run, tmp_path / "lonely")
    config = (lonely / "config.yaml").read_text().replace("cohort.csv", "gone.csv")
    (lonely / "config.yaml").write_text(config)
    with (lonely / "splits.csv").open() as file:
        lines = [line for line in file if not line.startswith(("0,1,", "0,2,"))]
    (lonely / "splits.csv").write_text("".join(lines))  # one fold is quicker
    assert main.main(["export", f"--run={lonely}", f"--cache_dir={tmp_path / 'cache'}"]) == 0
    assert "on random volumes" in capsys.readouterr().out
    assert "on random volumes" in (lonely / "bundle/docs/README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_odd_shapes_pool_alike_in_onnx(tmp_path, norm):
    torch.manual_seed(0)
    shape = (13, 11, 7)
    fold = FoldModel(
        Classifier(3, shape, filters=4, nodes=8, norm=norm), 0.1, 0.7, 1.3, (0.4, 0.0, -0.2)
    )
    write_onnx(fold, shape, tmp_path / "fold.onnx")
    volume = torch.randn(5, 1, *shape)
    assert onnx_difference(fold, tmp_path / "fold.onnx", volume) < 1e-5
    fold.slope = 0.5  # another function: the comparison must notice
    assert onnx_difference(fold, tmp_path / "fold.onnx", volume) > 1e-3


@pytest.mark.slow
def test_a_2d_baseline_is_predicted_with_and_exported_alike(tmp_path):
    table = write_people(tmp_path / "data", range(12), labelled=True)
    cache = f"--data.cache_dir={tmp_path / 'cache'}"
    flags = [f"--data.table={table}", f"--run={tmp_path / 'run'}", cache, "--wandb=disabled"]
    flags += ["--model.backbone=test_resnet", "--model.weights=none", "--model.image_size=32"]
    flags += ["--model.num_slices=2"]
    flags += ["--data.splits.num_folds=2", "--data.splits.num_repeats=1", "--trainer.max_epochs=1"]
    flags += ["--data.preprocessing.spatial_shape=[12,12,12]", "--data.augmentation.mode=none"]
    flags += ["--trainer.accelerator=cpu"]
    configs = ["-cconfigs/finetune.yaml", "-cconfigs/baseline.yaml"]
    assert main.main(["finetune", *configs, *flags]) == 0
    cache = cache.replace("data.", "")
    assert main.main(["export", f"--run={tmp_path / 'run'}", cache]) == 0
    for source in ("run", "run/bundle"):
        out = f"--out={tmp_path / 'out' / source}"
        arguments = [f"--run={tmp_path / source}", f"--data={table}", out, cache]
        assert main.main(["predict", *arguments]) == 0
    ours, theirs = (
        read_predictions(tmp_path / "out" / source / "ranking.csv")
        for source in ("run", "run/bundle")
    )
    columns = ["image", "prob_healthy", "prob_unhealthy", "spread"]
    assert theirs[columns].equals(ours[columns])
    assert "known to 1 of 2 models" in ours["warnings"][0]
    assert "known" not in theirs["warnings"][0]
