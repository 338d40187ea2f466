"""Doing a part of a run: one step of it, one task's share of its folds, next to other processes."""

import json
import os
import shutil
from dataclasses import replace
from itertools import chain

import pytest
import yaml
from lightning import Trainer

from commands.runs import run_folder
from commands.runs.command_line import RunOptions
from commands.runs.prepare import unfinished
from commands.runs.run_folder import FoldRun, claim, keep_splits, planned_budget, read_config
from datamodules.splits import Splits, make_splits


@pytest.fixture
def share(tmp_path):
    """Return a function that answers which of 2 × 3 folds a task would train."""
    folds = [FoldRun(r, f, tmp_path / f"repeat{r}_fold{f}") for r in range(2) for f in range(3)]

    def names(**options):
        asked = replace(RunOptions(), **options)
        return [fold_run.name for fold_run in unfinished(asked, folds)]

    names.folds = folds
    return names


@pytest.mark.parametrize("num_tasks", [1, 2, 4, 6, 9])
def test_the_tasks_together_train_each_fold_once(share, num_tasks):
    shares = [share(task=task, num_tasks=num_tasks) for task in range(num_tasks)]
    assert sorted(chain(*shares)) == [fold_run.name for fold_run in share.folds]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_share_of_a_task_does_not_depend_on_what_others_have_finished(share):
    before = share(task=1, num_tasks=2)
    share.folds[0].folder.mkdir()
    share.folds[0].finish({})
    assert share(task=1, num_tasks=2) == before
    assert share(task=0, num_tasks=2) == ["repeat0_fold2", "repeat1_fold1"]


@pytest.mark.parametrize(("task", "num_tasks"), [(2, 2), (-1, 2), (0, 0)])
def test_a_task_that_does_not_exist_is_named(share, task, num_tasks):
    with pytest.raises(ValueError, match=f"no task {task} of {num_tasks}"):
        share(task=task, num_tasks=num_tasks)


def test_a_run_that_was_begun_with_other_folds_is_refused(tmp_path):
    patients, labels = [f"{n:03d}" for n in range(12)], list("ab" * 6)
    table = make_splits(patients, labels, Splits(num_folds=3))
    keep_splits(table, tmp_path)
    keep_splits(table, tmp_path)
    before = (tmp_path / "splits.csv").read_text()
    other = make_splits(patients, labels, Splits(num_folds=3, seed=1))
    with pytest.raises(ValueError, match=r"begun with other folds .* Choose another RUN"):
        keep_splits(other, tmp_path)
    assert (tmp_path / "splits.csv").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["finetune", "classical"])
def test_a_class_that_is_missing_in_a_part_is_told_before_the_training(
    verb, write_cohort, run_verb, capsys
):
    table = write_cohort(8)
    rows = table.read_text().splitlines()
    rows[1:3] = [row.rpartition(",")[0] + ",rare" for row in rows[1:3]]
    table.write_text("\n".join(rows) + "\n")
    step = ["--only=prepare"] if verb == "finetune" else ["--methods=[dummy]"]
    step += ["--data.splits.num_folds=2", "--data.splits.val_fraction=0.2"]
    assert run_verb(verb, table, "run", *step) == 0
    told = capsys.readouterr().out
    assert told.count("Class 'rare' is missing in the validation part of 2 of 2 folds") == 1


@pytest.mark.slow
def test_preparing_fills_the_cache_and_gathering_too_early_is_refused_and_neither_trains(
    write_cohort, run_verb, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
    table = write_cohort(12)
    assert run_verb("finetune", table, "run", "--only=prepare") == 0
    assert "3 of 3 folds remain" in capsys.readouterr().out
    assert (tmp_path / "run/splits.csv").is_file()
    assert list(tmp_path.glob("cache/*/*.npy"))
    assert run_verb("finetune", table, "run", "--only=gather") == 2
    error = capsys.readouterr().err
    assert "3 of 3 folds" in error
    assert "repeat0_fold0, repeat0_fold1, repeat0_fold2" in error


@pytest.mark.slow
def test_a_first_try_that_fails_leaves_the_name_of_the_run_to_other_settings(
    write_cohort, run_verb, tmp_path, capsys
):
    table, run = write_cohort(12), tmp_path / "run"
    assert run_verb("finetune", table, "run", "--model.finetuning.head_epochs=9") == 2
    assert "would begin to learn at epoch 9" in capsys.readouterr().err
    assert not [name for name in ("config.yaml", "run.json") if (run / name).exists()]
    assert run_verb("finetune", table, "run", "--model.lr=0.5", "--only=prepare") == 0
    assert run_verb("finetune", table, "run", "--model.finetuning.head_epochs=9") == 2
    assert "was made with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_training_leaves_the_tables_to_gathering(write_cohort, run_verb, tmp_path):
    table, run = write_cohort(12), tmp_path / "run"
    assert run_verb("finetune", table, "run", "--only=train") == 0
    assert not (run / "predictions.csv").exists()
    assert run_verb("finetune", table, "run", "--only=gather") == 0
    assert len((run / "predictions.csv").read_text().splitlines()) == 1 + 12
    assert json.loads((run / "run.json").read_text())["device"] == "CPU"


def test_of_two_processes_that_claim_a_folder_at_once_the_first_one_has_it(tmp_path, monkeypatch):
    facts = {"data_hash": "same"}

    def another_claims_meanwhile():
        monkeypatch.undo()
        claim(tmp_path, {"lr": 1}, facts | {"seed": 1})

    monkeypatch.setattr(run_folder, "_commit", another_claims_meanwhile)
    with pytest.raises(ValueError, match="lr: 1 there, 2 here"):
        claim(tmp_path, {"lr": 2}, facts | {"seed": 2})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"lr": 1}
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "run.json"]


def test_a_folder_is_claimed_where_files_cannot_be_linked(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links")

    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        claim(tmp_path, {"lr": 1}, {"data_hash": "same"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "run.json"]


@pytest.mark.slow
def test_two_workers_write_what_one_process_writes(write_cohort, run_verb, tmp_path):
    table = write_cohort(12)
    validating = "--data.splits.val_fraction=0.2"
    assert run_verb("finetune", table, "one", validating) == 0
    assert run_verb("finetune", table, "two", validating, "--workers=2") == 0
    for name in ("predictions.csv", "validation.csv", "splits.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert (tmp_path / "two/report.html").is_file()


@pytest.mark.slow
def test_no_workers_at_all_are_refused(write_cohort, run_verb, capsys):
    assert run_verb("finetune", write_cohort(12), "run", "--workers=0") == 2
    assert "WORKERS must be at least 1." in capsys.readouterr().err


@pytest.mark.slow
def test_workers_inside_an_array_task_are_refused(write_cohort, run_verb, tmp_path, capsys):
    settings = ["--workers=2", "--num_tasks=2"]
    assert run_verb("finetune", write_cohort(12), "run", *settings) == 2
    assert "either num_tasks or workers" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "place"), [("finetune", "run/repeat0_fold1"), ("pretrain", "run")]
)
def test_a_fold_that_another_process_trains_is_left_to_it(
    write_cohort, run_verb, tmp_path, capsys, verb, place
):
    table = write_cohort(12)
    with FoldRun(0, 1, tmp_path / place).alone():
        assert run_verb(verb, table, "run", epochs=1) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / place} is being trained by process {os.getpid()} on " in said
    assert run_verb(verb, table, "run", epochs=1) == 0
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.slow
def test_settings_of_the_data_stay_while_a_run_goes_on_but_may_lie_elsewhere(
    write_cohort, run_verb, tmp_path, capsys
):
    def again(*settings):
        code = run_verb("finetune", table, "run", "--only=prepare", *settings)
        return code, capsys.readouterr().err

    table = write_cohort(12)
    assert again()[0] == 0
    for setting in ("batch_size=8", "splits.num_repeats=2", "augmentation.log_gamma=0.3"):
        code, error = again(f"--data.{setting}")
        assert code == 2
        name, _, value = setting.partition("=")
        assert f"data.init_args.{name}: " in error
        assert f"{value} here" in error
    table = shutil.copytree(table.parent, tmp_path.with_name("moved")) / table.name
    elsewhere = [f"--data.cache_dir={tmp_path / 'another'}", "--data.num_workers=1"]
    elsewhere += [f"--data.splits.path={tmp_path / 'run/splits.csv'}"]
    assert again(*elsewhere)[0] == 0
    table.write_text(table.read_text().replace("p11,", "p12,"))
    assert "data_hash: " in again()[1]


@pytest.mark.slow
def test_what_is_prepared_without_a_gpu_is_trained_as_it_was_planned_with_one(
    write_cohort, run_verb, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
    table = write_cohort(12)
    (tmp_path / "plan.yaml").write_text("data: {preprocessing: {spatial_shape: null}}\n")
    begin = ["finetune", table, "run", f"-c{tmp_path / 'plan.yaml'}", "--only=prepare"]
    monkeypatch.setattr("commands.runs.prepare.default_budget", lambda _: 600)
    assert run_verb(*begin) == 0
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]["init_args"]
    assert settings["preprocessing"]["spatial_shape"] == [8, 8, 8]
    assert settings["preprocessing"]["voxel_budget"] == 600
    monkeypatch.setattr("commands.runs.prepare.default_budget", lambda _: 12**3)
    capsys.readouterr()
    assert run_verb(*begin) == 0
    assert "to 8 × 8 × 8 voxels" in capsys.readouterr().out
    assert run_verb(*begin, "--data.preprocessing.voxel_budget=1728") == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert run_verb(*begin[:2], "other", *begin[3:]) == 0
    assert "to 12 × 12 × 12 voxels" in capsys.readouterr().out


def test_runs_planned_together_keep_the_budget_of_the_first(tmp_path):
    assert planned_budget(tmp_path) is None
    old = {"voxel_budget": 64_000, "window_percentiles": [2.5, 97.5]}
    content = yaml.safe_dump({"data": {"init_args": {"preprocessing": old}}})
    (tmp_path / "classical/svm").mkdir(parents=True)
    (tmp_path / "classical/svm/config.yaml").write_text(content)
    assert (
        planned_budget(tmp_path / "classical")
        == planned_budget(tmp_path / "classical/svm")
        == 64_000
    )


def test_the_config_of_an_older_run_says_what_was_done_then(tmp_path):
    old = {"spatial_shape": [8, 8, 8], "window_percentiles": [2.5, 97.5], "divide_by": "range"}
    content = yaml.safe_dump({"data": {"init_args": {"preprocessing": old}}})
    (tmp_path / "config.yaml").write_text(content)
    settings = read_config(tmp_path)["data"]["init_args"]["preprocessing"]
    assert settings["window_over"] == "everything"
    assert settings["anti_alias"] is False
