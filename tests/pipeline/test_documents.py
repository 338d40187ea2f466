"""What CONTRIBUTING.md and docs/library.md show, run as it stands there."""

import re
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import callbacks
import lightning_modules
import main
from commands.bundles.scan_prediction import predict_scan
from evaluation.predictions import read_predictions

TINY = ["--trainer.accelerator=cpu", "--trainer.max_epochs=2"]
TINY += ["--data.augmentation.num_versions=2", "--data.batch_size=4"]
TINY += ["--data.splits.num_repeats=1", "--data.splits.num_folds=3"]
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(document):
    return BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))


@pytest.fixture
def run_example(tmp_path, monkeypatch, write_cohort, record_property, capsys):
    """Return a function that does what CONTRIBUTING.md tells: files, YAML, `finetune`."""
    for block in _blocks("CONTRIBUTING.md"):
        name = block.splitlines()[0].removeprefix("# ")
        if name.endswith((".py", ".yaml")):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(block)
    for package in (lightning_modules, callbacks):
        places = [*package.__path__, str(tmp_path / package.__name__)]
        monkeypatch.setattr(package, "__path__", places)

    def run(name, *arguments):
        table = write_cohort(12)
        begun = time.monotonic()
        places = [f"--data.table={table}", f"--run={tmp_path / 'run'}"]
        places += [f"--data.cache_dir={tmp_path / 'cache'}"]
        files = ["-cconfigs/finetune.yaml", f"-c{tmp_path / name}"]
        assert main.main(["finetune", *files, *places, *TINY, *arguments]) == 0
        seconds = time.monotonic() - begun
        record_property("seconds", round(seconds, 1))
        with capsys.disabled():
            print(f" {name}: {seconds:.1f} s", end="")
        return tmp_path / "run"

    return run


def _logged(fold):
    return pd.read_csv(fold / "logs/version_0/metrics.csv")


@pytest.mark.slow
def test_a_model_of_ones_own(run_example, tmp_path):
    run = run_example("network.yaml", "--model.filters=4")
    assert len(read_predictions(run / "predictions.csv")) == 12
    checkpoint = torch.load(run / "repeat0_fold0/best.ckpt", weights_only=True)
    assert checkpoint["class_path"] == "lightning_modules.small_network.SmallNetwork"
    splits = pd.read_csv(run / "splits.csv").query("fold == 0 and part != 'test'")
    assert checkpoint["seen_patients"] == sorted(splits["patient_id"])
    fold = run / "repeat0_fold0"
    tested = read_predictions(fold / "predictions.csv").set_index("image")
    for image, row in tested.iterrows():
        probs = predict_scan(tmp_path / image, fold / "best.ckpt")
        outputs = row[["prob_healthy", "prob_unhealthy"]].astype(float)
        assert list(probs.values()) == pytest.approx(list(outputs / outputs.sum()), abs=1e-4)


@pytest.mark.slow
def test_a_model_without_settings(run_example, tmp_path):
    (tmp_path / "lightning_modules/fixed.py").write_text(
        "from lightning_modules.small_network import SmallNetwork\n"
        "class Fixed(SmallNetwork):\n"
        "    def __init__(self):\n"
        "        super().__init__(2, filters=4)\n"
    )
    (tmp_path / "fixed.yaml").write_text("model: {class_path: lightning_modules.fixed.Fixed}")
    run = run_example("fixed.yaml", "--fold=0")
    assert len(read_predictions(run / "repeat0_fold0/predictions.csv")) == 4


@pytest.mark.slow
def test_a_transform_of_torchio(run_example, tmp_path):
    run = run_example("transform.yaml", "--data.augmentation.mode=fresh", "--fold=0")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (transform,) = config["data"]["init_args"]["augmentation"]["transforms"]
    assert transform["class_path"] == "torchio.RandomBlur"
    blurred = _logged(run / "repeat0_fold0")["train/loss"]
    shutil.rmtree(run)
    (tmp_path / "transform.yaml").write_text("{}")
    sharp = _logged(
        run_example("transform.yaml", "--data.augmentation.mode=fresh", "--fold=0")
        / "repeat0_fold0"
    )
    assert blurred.dropna().tolist() != sharp["train/loss"].dropna().tolist()


@pytest.mark.slow
def test_a_metric_of_torchmetrics(run_example):
    run = run_example("metric.yaml", "--fold=0")
    scores = _logged(run / "repeat0_fold0")["val/f1"].dropna()
    assert scores.between(0, 1).all()
    state = torch.load(run / "repeat0_fold0/best.ckpt", weights_only=True)
    assert state["epoch"] in scores.reset_index(drop=True).loc[lambda f1: f1 == f1.max()].index


@pytest.mark.slow
def test_a_callback(run_example):
    run = run_example("callback.yaml", "--fold=0")
    assert (_logged(run / "repeat0_fold0")["train/weight_norm"].dropna() > 0).all()


@pytest.mark.slow
def test_the_page_for_notebooks(tmp_path, monkeypatch, write_cohort):
    table = write_cohort(12)
    shutil.copy(tmp_path / "cohort/p01_0.nii.gz", tmp_path / "scan.nii.gz")
    assert table.name == "cohort.csv"
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in _blocks("docs/library.md"):
        exec(block, names)
    assert sum(names["probs"].values()) == pytest.approx(1)
    assert list(names["probs"]) == ["healthy", "unhealthy"]
    written = {"best.ckpt", "predictions.csv", "ranking.csv"}
    assert written <= {path.name for path in (tmp_path / "notebook").iterdir()}
