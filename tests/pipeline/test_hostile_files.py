"""Hostile files run nothing, and secrets, names and paths stay where they are."""

import contextlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from people import write_people

import main
from commands.check_data import check_data
from datamodules.cache.row_cache import cached_rows
from lightning_modules.transfer import read_checkpoint


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """A file that hostile code would make."""
    return tmp_path / "executed"


@pytest.fixture
def save_hostile(mark):
    def save(path):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        torch.save({"state_dict": {}, "seen_patients": [], "evil": Hostile(mark)}, path)
        return path

    return save


def test_the_trap_works(save_hostile, mark, tmp_path):
    torch.load(save_hostile(tmp_path / "evil.ckpt"), weights_only=False)
    assert mark.exists()


def test_a_hostile_checkpoint_is_refused_on_transfer(save_hostile, mark, tmp_path):
    with pytest.raises(ValueError, match=r"evil\.ckpt cannot be read: it is corrupt or not safe"):
        read_checkpoint(save_hostile(tmp_path / "evil.ckpt"))
    assert not mark.exists()


@pytest.mark.slow
def test_a_hostile_checkpoint_is_not_continued_from(
    write_cohort, run_verb, save_hostile, mark, tmp_path, capsys
):
    table = write_cohort(12)
    (tmp_path / "fine/repeat0_fold0").mkdir(parents=True)
    save_hostile(tmp_path / "fine/repeat0_fold0/last.ckpt")
    assert run_verb("finetune", table, "fine", "--fold=0", epochs=1) == 0
    said = capsys.readouterr().out
    assert "last.ckpt cannot be read: it is corrupt or not safe. It is skipped." in said
    assert "continues from" not in said
    assert not mark.exists()


def test_a_variable_that_allows_unsafe_checkpoints_is_warned_of_and_dropped(
    monkeypatch, capsys, save_hostile, mark, tmp_path
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert main.main(["check_data", "--data.table=none.csv", f"--run={tmp_path}"]) == 2
    assert "warning: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in capsys.readouterr().err
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    with pytest.raises(pickle.UnpicklingError):
        torch.load(save_hostile(tmp_path / "evil.ckpt"))
    assert not mark.exists()


def test_a_hostile_array_in_the_cache_is_refused(mark, tmp_path):
    def rows():
        return cached_rows(tmp_path, ["1"], (1,), lambda _: (np.zeros(1), {}), what="rows")

    rows()
    (array,) = tmp_path.glob("*.npy")
    np.save(array, np.array([Hostile(mark)]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"\.npy cannot be read: it is corrupt or not safe"):
        rows()
    assert not mark.exists()
    np.load(array, allow_pickle=True)
    assert mark.exists(), "the trap works"


def test_a_hostile_check_in_the_cache_is_made_again(write_cohort, mark, tmp_path):
    arguments = [f"--data.table={write_cohort(4)}", f"--data.cache_dir={tmp_path / 'cache'}"]
    check_data([*arguments, f"--run={tmp_path / 'run'}"])
    for kept in (tmp_path / "cache").glob("checks-*/*.npz"):
        with kept.open("wb") as file:
            np.savez(file, facts=np.array([Hostile(mark)]))
    check_data([*arguments, f"--run={tmp_path / 'run'}"])
    assert not mark.exists()


@pytest.mark.parametrize("verb", ["finetune", "pretrain", "check_data"])
def test_a_yaml_tag_runs_nothing(verb, mark, tmp_path, capsys):
    config = tmp_path / "evil.yaml"
    config.write_text(f"data: !!python/object/apply:os.system ['touch {mark}']\n")
    assert main.main([verb, "-c", str(config)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "python/object/apply" in error
    assert not mark.exists()


@pytest.mark.parametrize(
    "settings",
    [
        "trainer: {{callbacks: [{{class_path: subprocess.Popen, init_args: {{args: [{0}]}}}}]}}",
        "trainer: {{logger: {{class_path: os.system, init_args: {{command: touch {0}}}}}}}",
        "model: {{class_path: evil.Model}}",
        "data: {{class_path: builtins.exec}}",
    ],
)
def test_a_class_path_outside_the_allowed_packages_is_refused(
    settings, mark, tmp_path, capsys, monkeypatch
):
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / "evil.yaml"
    config.write_text(settings.format(mark))
    arguments = ["-cconfigs/finetune.yaml", "-c", str(config), "--data.table=README.md"]
    assert main.main(["finetune", *arguments]) == 2
    error = capsys.readouterr().err
    assert "is not allowed" in error
    assert len(error.splitlines()) == 1
    assert not mark.exists()


def test_the_environment_is_not_read_into_settings(write_cohort, run_verb, monkeypatch, capsys):
    monkeypatch.setenv("PLANTED_KEY", "planted-secret")
    spied = "--trainer.max_time=${oc.env:PLANTED_KEY}"
    assert run_verb("finetune", write_cohort(6), "fine", spied) == 2
    error = capsys.readouterr().err
    assert "Unsupported interpolation type oc.env" in error
    assert len(error.splitlines()) == 1
    assert "planted-secret" not in error


@pytest.mark.slow
def test_keys_names_and_paths_stay_where_they_are(write_cohort, run_verb, tmp_path, monkeypatch):
    secrets = {"PLANTED_KEY": "planted-secret", "WANDB_API_KEY": "f00d" * 10}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run_verb("pretrain", write_cohort(6, name="source"), "pre", epochs=1) == 0
    table = write_cohort(12)
    table.write_text(table.read_text().replace("\np", "\nsecretperson"))
    init = f"--init={tmp_path / 'pre'}"
    assert run_verb("finetune", table, "fine", "--fold=0", init, epochs=1) == 0
    wandb.teardown()  # waits for the process that writes W&B's files
    written = [path for path in (tmp_path / "fine").rglob("*") if path.is_file()]
    assert {"config.yaml", "run.json", "metrics.csv"} <= {path.name for path in written}
    for path in written:
        content = path.read_bytes()
        for value in secrets.values():
            assert value.encode() not in content, path
        if path.suffix == ".wandb" or "files" in path.parts:  # what `wandb sync` would send
            for private in ("secretperson", str(tmp_path), "cohort.csv"):
                assert private.encode() not in content, path


@pytest.mark.slow
def test_a_run_that_names_a_hostile_network_runs_nothing(
    finished_run, mark, tmp_path, capsys, monkeypatch
):
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = (run / "config.yaml").read_text()
    assert "lightning_modules.classifier.Classifier" in config
    config = config.replace("lightning_modules.classifier.Classifier", "evil.Network")
    (run / "config.yaml").write_text(config)
    table = write_people(tmp_path / "new", range(100, 104), labelled=False)
    options = [f"--run={run}", f"--data={table}", f"--out={tmp_path / 'out'}"]
    assert main.main(["predict", *options, f"--cache_dir={tmp_path / 'cache'}"]) == 2
    assert "is not allowed" in capsys.readouterr().err
    assert not mark.exists()
