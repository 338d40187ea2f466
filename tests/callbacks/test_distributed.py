"""Two CPU processes (gloo) against one."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import main
from evaluation.predictions import read_predictions

TINY = [
    "-cconfigs/finetune.yaml",
    "--wandb=disabled",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=3",
    "--model.filters=4",
    "--model.depth=2",
    "--model.nodes=8",
    "--model.norm=none",  # BatchNorm sees the batch of its device alone
    "--model.dropout=0",  # each device drops other numbers
    "--data.preprocessing.spatial_shape=[12,12,12]",
    "--data.augmentation.num_versions=2",
    "--data.splits.num_repeats=1",
    "--data.splits.val_fraction=0.2",
    "--data.splits.num_folds=3",
]


def _run(arguments, timeout=900):
    done = subprocess.run(
        [sys.executable, "main.py", *arguments], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_predict_the_same_table_as_one(write_cohort, tmp_path):
    table = write_cohort(15)  # folds of 5, validation of 2 and 3: odd shares for two ranks
    shared = ["finetune", *TINY, f"--data.table={table}", f"--data.cache_dir={tmp_path / 'cache'}"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
    out = _run([*shared, f"--run={tmp_path / 'two'}", *two])
    assert out.count("Run ") == 1, "the second process must not speak"
    assert main.main([*shared, f"--run={tmp_path / 'one'}", "--data.batch_size=8"]) == 0
    for name in ("predictions.csv", "validation.csv"):
        one, two = (read_predictions(tmp_path / run / name) for run in ("one", "two"))
        assert not two.duplicated(["patient_id", "repeat", "fold"]).any()
        columns = ["patient_id", "image", "repeat", "fold", "label"]
        pd.testing.assert_frame_equal(one[columns], two[columns])
        # the ranks share each batch of the single process, so the networks are the same as well
        np.testing.assert_allclose(one["prob_unhealthy"], two["prob_unhealthy"], atol=1e-4)
    for fold in range(3):
        weights = [
            torch.load(tmp_path / run / f"repeat0_fold{fold}/best.ckpt", weights_only=True)
            for run in ("one", "two")
        ]
        assert weights[0]["epoch"] == weights[1]["epoch"]


@pytest.mark.slow
def test_pretraining_works_on_two_processes(write_cohort, tmp_path):
    table = write_cohort(7, labelled=False)
    _run(
        [
            "pretrain",
            "-cconfigs/pretrain.yaml",
            f"--run={tmp_path / 'pre'}",
            f"--data.table={table}",
            f"--data.cache_dir={tmp_path / 'cache'}",
            "--data.preprocessing.spatial_shape=[12,12,12]",
            "--data.patch_shape=[6,6,4]",
            "--data.patches_per_volume=41",
            "--wandb=disabled",
            "--trainer.max_epochs=2",
            "--trainer.accelerator=cpu",
            "--trainer.devices=2",
            "--trainer.strategy=ddp",
        ]
    )
    assert (tmp_path / "pre/best.ckpt").is_file()
    assert (tmp_path / "pre/finished.json").is_file()


@pytest.mark.slow
def test_a_2d_network_trains_on_more_processes_than_there_are_validation_scans(
    write_cohort, tmp_path
):
    own = tmp_path / "own.yaml"
    own.write_text(
        "trainer:\n  strategy:\n    class_path: lightning.pytorch.strategies.DDPStrategy\n"
        '    init_args: {timeout: "0:05:00"}\n'
    )
    small = [argument for argument in TINY if not argument.startswith("--model")]
    said = _run(
        [
            *("finetune", *small, "-cconfigs/baseline.yaml", f"-c{own}"),
            *("--model.backbone=mobilenetv3_small_050", "--model.weights=none", "--fold=0"),
            *("--model.image_size=32", "--model.num_slices=2", "--trainer.max_epochs=3"),
            *("--model.finetuning.head_epochs=1", "--trainer.devices=3"),
            *("--data.batch_size=2", f"--run={tmp_path / 'run'}"),
            *(f"--data.table={write_cohort(6)}", f"--data.cache_dir={tmp_path / 'cache'}"),
        ]
    )
    assert said.count("3 devices × batch 2 × 1 accumulated: effective batch size 6, learning") == 1
    folder = tmp_path / "run/repeat0_fold0"
    splits = pd.read_csv(tmp_path / "run/splits.csv").query("fold == 0")
    assert sum(splits["part"] == "val") < 3
    for name, part in {"predictions": "test", "validation": "val"}.items():
        table = read_predictions(folder / f"{name}.csv")
        assert sorted(table["patient_id"]) == sorted(splits[splits["part"] == part]["patient_id"])


def test_lightnings_padding_sampler_is_refused(monkeypatch):
    from lightning import Trainer

    from callbacks.distributed import DistributedRun

    trainer = Trainer(accelerator="cpu", logger=False, use_distributed_sampler=True)
    monkeypatch.setattr(Trainer, "world_size", 2)
    with pytest.raises(ValueError, match="use_distributed_sampler must be false"):
        DistributedRun().setup(trainer, None, "fit")
