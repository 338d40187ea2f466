"""Whole commands on 2D pictures."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import main
from evaluation.predictions import read_predictions
from lightning_modules.transfer import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def pictures(tmp_path):
    lines = ["patient_id,image,label"]
    for patient in range(12):
        pixels = np.random.default_rng(patient).integers(0, 90, (22, 18), np.uint8)
        pixels[6:12, 4:10] += np.uint8(120 * (patient % 2))
        pixels[:, 0] = 250  # the left border
        name = f"p{patient:02d}.{('png', 'tif')[patient % 3 == 0]}"
        Image.fromarray(pixels).save(tmp_path / name)
        lines.append(f"p{patient:02d},{name},{'ill' if patient % 2 else 'well'}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "cohort.csv"


def _finetune(table, folder, *more, verb="finetune"):
    arguments = [
        verb,
        "-cconfigs/finetune.yaml",
        f"--data.table={table}",
        f"--data.cache_dir={table.parent / 'cache'}",
        f"--run={folder}",
        "--data.splits.num_repeats=1",
        "--data.splits.num_folds=3",
        "--trainer.accelerator=cpu",
    ]
    assert main.main([*arguments, *more]) == 0


def test_pictures_go_from_check_to_bundle(pictures, tmp_path, caplog):
    cache = f"--data.cache_dir={tmp_path / 'cache'}"
    checked = ["check_data", f"--data.table={pictures}", cache, f"--run={tmp_path / 'check'}"]
    assert main.main(checked) == 0
    small = ["--data.augmentation.num_versions=4", "--trainer.max_epochs=60", "--model.filters=8"]
    _finetune(pictures, tmp_path / "run", *small)
    assert "too thin" not in caplog.text
    table = read_predictions(tmp_path / "run/predictions.csv")
    assert len(table) == 12
    assert roc_auc_score(table["label"] == "ill", table["prob_ill"]) > 0.9
    weights = read_checkpoint(next((tmp_path / "run").glob("*/*.ckpt")))["state_dict"]
    assert weights["encoder.0.0.weight"].shape == (8, 1, 3, 3, 1)
    page = (tmp_path / "run/report.html").read_text()
    shown = re.search(r"data:image/webp;base64,([\w+/=]+)", page)[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))).convert("L"))
    assert picture[:100, :4].mean() > 200  # as the file has it: not mirrored, and once
    _finetune(pictures, tmp_path / "classical", "--methods=[svm]", verb="classical")
    assert len(read_predictions(tmp_path / "classical/svm/predictions.csv")) == 12
    new = ["predict", f"--run={tmp_path / 'run'}", f"--data={pictures}"]
    assert main.main([*new, f"--out={tmp_path / 'new'}", f"--cache_dir={tmp_path / 'c'}"]) == 0
    assert main.main(["export", f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'bundle'}"]) == 0


@pytest.mark.parametrize("method", ["autoencoder", "masked", "lesions"])
def test_an_encoder_is_pretrained_on_pictures(pictures, tmp_path, method):
    arguments = [
        "pretrain",
        "-cconfigs/pretrain.yaml",
        f"-cconfigs/pretrain/{method}.yaml",
        f"--data.table={pictures}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        f"--run={tmp_path / 'encoder'}",
        "--model.filters=8",
        "--data.patches_per_volume=40",
        "--data.val_patches_per_volume=4",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
    ]
    assert main.main(arguments) == 0
    (path,) = (tmp_path / "encoder").glob("**/best.ckpt")
    checkpoint = read_checkpoint(path)
    assert checkpoint["state_dict"]["encoder.1.0.weight"].shape == (8, 8, 3, 3, 1)
