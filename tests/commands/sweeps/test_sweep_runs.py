"""Sweeps that really train, on a few tiny scans."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

import main
from commands.sweeps.sweep_file import read_sweep, setting_arguments

TINY = {
    "trainer.max_epochs": 3,
    "trainer.accelerator": "cpu",
    "data.preprocessing.spatial_shape": "[12,12,12]",
    "data.augmentation.mode": "none",
    "data.splits.num_folds": 2,
    "data.splits.num_repeats": 2,
    "data.splits.val_fraction": 0.2,
    "data.batch_size": 4,
    "model.filters": 4,
    "model.depth": 1,
}
SWEEP = {
    "program": "main.py",
    "method": "grid",
    "metric": {"name": "cv/auroc", "goal": "maximize"},
    "parameters": {"model.nodes": {"values": [4, 8]}, "model.lr": {"values": [0.001]}},
}
NAMES = ("lr0.001-nodes4", "lr0.001-nodes8")


@pytest.fixture
def given(write_cohort, tmp_path):
    """What all settings share."""
    settings = {"data.table": write_cohort(12), "data.cache_dir": tmp_path / "cache", **TINY}
    return ["-cconfigs/finetune.yaml", *[f"--{key}={value}" for key, value in settings.items()]]


@pytest.fixture
def sweep_file(tmp_path):
    def write(**changes):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(SWEEP | changes))
        return path

    return write


@pytest.mark.slow
def test_the_settings_of_a_sweep_end_like_plain_runs(given, sweep_file, tmp_path, capsys):
    path, folder = sweep_file(), tmp_path / "sweep"
    command = ["sweep", f"--sweep={path}", f"--run={folder}", "--workers=2", *given]
    assert main.main(command) == 0
    said = capsys.readouterr().out
    assert "2 of 2 settings." in said
    assert "Best of 2 finished settings: model.lr=0.001 model.nodes=" in said
    setting = list(read_sweep(path).settings())[1]
    plain = tmp_path / "plain"
    assert main.main(["finetune", *given, *setting_arguments(setting), f"--run={plain}"]) == 0
    for table in ("predictions.csv", "validation.csv", "metrics.json", "splits.csv"):
        assert (folder / NAMES[1] / table).read_bytes() == (plain / table).read_bytes()
    table = pd.read_csv(folder / "results.csv")
    assert table["state"].tolist() == ["finished"] * 2
    metrics = json.loads((folder / table["name"][0] / "metrics.json").read_text())
    for column, key in (("auroc", "mean"), ("auroc_sd", "sd")):
        assert table[column][0] == pytest.approx(metrics[key]["auroc"])
    assert (folder / "settings.png").stat().st_size > 5000
    assert main.main(["compare", f"--runs={folder}", f"--run={tmp_path / 'compare'}"]) == 0
    assert main.main(["verify", f"--run={folder / NAMES[0]}"]) == 0


@pytest.mark.slow
def test_a_simulated_agent_trains_two_settings_offline(given, sweep_file, tmp_path):
    config = yaml.safe_load(Path("configs/sweeps/mctl_table1.yaml").read_text())
    network = "configs/sweeps/networks/depth1_filters16.yaml"
    trials = [
        {"config": network, "model.nodes": 4},
        {"model.lr": 1e-5, "model.freeze_encoder": True},
    ]
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"config": config, "trials": trials}))
    sweep = tmp_path / "a sweep"
    done = subprocess.run(
        [sys.executable, "tests/helpers/simulated_agent.py", str(job), f"--run={sweep}", *given],
        capture_output=True,
        text=True,
        timeout=1200,
        env=os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
    )
    names = ("depth1_filters16-nodes4", "freeze_encoderTrue-lr1e-05")
    assert done.returncode == 0, done.stderr[-2000:]
    for number, name in enumerate(names):
        assert (sweep / name / "metrics.json").is_file(), done.stderr[-5000:]
        metrics = json.loads((sweep / name / "metrics.json").read_text())
        (log,) = (sweep / name).glob("wandb/offline-run-*/*.wandb")
        assert log.name == f"run-trial{number}.wandb", "each trial is one W&B run"
        content = log.read_bytes()
        for key in (b"cv/auroc", b"repeat1_fold1-val/loss", b"abc123"):
            assert key in content
        for private in (str(tmp_path).encode(), b"cohort.csv"):
            assert private not in content
        assert repr(metrics["mean"]["auroc"])[:8].encode() in content
    table = [f"--sweep={sweep_file()}", f"--run={sweep}", "--table"]
    assert main.main(["sweep", *table]) == 0
    assert sorted(pd.read_csv(sweep / "results.csv")["name"]) == sorted(names)


@pytest.mark.slow
def test_of_a_setting_on_two_processes_one_talks_to_wandb(given, tmp_path):
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.splits.num_repeats=1"]
    command = ["agent", *given, *two, f"--run={tmp_path / 'sweep'}", "--", "--model.nodes=8"]
    done = subprocess.run(
        [sys.executable, "main.py", *command],
        capture_output=True,
        text=True,
        timeout=1200,
        env=os.environ | {"WANDB_MODE": "offline", "WANDB_RUN_ID": "one", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (log,) = (tmp_path / "sweep/nodes8").glob("wandb/offline-run-*/run-one.wandb")
    assert b"cv/auroc" in log.read_bytes()
    assert (tmp_path / "sweep/nodes8/metrics.json").is_file()


def test_a_sweep_without_a_key_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert main.main(["sweep", "--by_wandb", "--sweep=configs/sweeps/training.yaml"]) == 2
    assert "`wandb login` first" in capsys.readouterr().err


def test_a_sweep_goes_to_wandb_as_it_stands_in_its_file(monkeypatch, tmp_path, capsys):
    import wandb

    asked = {}
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "sweep", lambda config, project: asked.update(config) or "abc123")
    table = tmp_path / "private.csv"
    table.write_text("patient_id,image,label\n")
    given = [f"--data.table={table}", "-cconfigs/finetune.yaml"]
    path = "configs/sweeps/training.yaml"
    assert main.main(["sweep", "--by_wandb", f"--sweep={path}", *given]) == 0
    assert asked == yaml.safe_load(Path("configs/sweeps/training.yaml").read_text())
    assert "make agent SWEEP=mctl/abc123" in capsys.readouterr().out


def test_an_agent_without_a_sweep_or_a_setting_is_refused(capsys):
    assert main.main(["agent", "-cconfigs/finetune.yaml"]) == 2
    assert "Give the sweep: make agent SWEEP=" in capsys.readouterr().err
    assert main.main(["agent", "-cconfigs/finetune.yaml", "--", "model.lr=1"]) == 2
    assert "--key=value, not 'model.lr=1'" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "preempting"), [(75, True), (143, False)])
def test_wandb_is_told_when_a_trial_will_go_on(tmp_path, monkeypatch, code, preempting):
    from callbacks.stop_signals import Stopped
    from commands.runs import wandb_run as module

    told = []

    class Run:
        def mark_preempting(self):
            told.append("preempting")

        def finish(self, exit_code=0):
            told.append(exit_code)

        def define_metric(self, *_, **__):
            pass

    monkeypatch.setattr(module, "start_wandb", lambda *_: Run())
    run = SimpleNamespace(
        config=SimpleNamespace(wandb="offline"), folder=tmp_path, settings={"seed_everything": 0}
    )
    with pytest.raises(Stopped), module.wandb_run(run, wanted=True):
        raise Stopped(code)
    assert told == ["preempting"] * preempting + [code]
