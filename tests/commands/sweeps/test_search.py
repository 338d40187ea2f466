"""The local search, with trainings that only write what they are asked to predict."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

import main
from commands.runs import side_by_side
from commands.sweeps import search as searching
from commands.sweeps.search import LOG_NAME, Search, duration
from commands.sweeps.sweep_file import read_sweep
from commands.sweeps.sweep_table import PRUNED_NAME, finished_folds, read_settings, running_figures
from evaluation.metrics import classification_metrics, running_mean
from evaluation.predictions import read_predictions
from files.whole_file import is_gone

QUICK = Path("tests/helpers/quick_finetune.py").resolve()
GRID = {"model.lr": {"values": [0.001, 0.1, 0.01]}, "model.nodes": {"values": [4, 8]}}
SPACE = {
    "model.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0},
    "model.freeze_encoder": {"values": [False, True]},
}
RUN = """
import sys
from pathlib import Path
from commands.sweeps import search
from commands.runs import side_by_side
import main
side_by_side.MAIN, search.POLL_S = Path(sys.argv[1]), 0.05
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(side_by_side, "MAIN", QUICK)
    monkeypatch.setattr(searching, "POLL_S", 0.05)


@pytest.fixture
def write_sweep(tmp_path):
    """Return a function that writes a sweep file, a grid unless asked otherwise."""

    def write(**changes):
        content = {"program": "main.py", "method": "grid", "parameters": GRID}
        content |= {"metric": {"name": "cv/brier", "goal": "minimize"}}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content | changes))
        return tmp_path / "sweep.yaml"

    return write


@pytest.fixture
def write_space(write_sweep):
    """Return a function that writes the file of a search over nine settings."""

    def write(**changes):
        return write_sweep(**{"method": "bayes", "run_cap": 9, "parameters": SPACE} | changes)

    return write


def _start(path, folder, *more):
    command = ["sweep", f"--sweep={path}", f"--run={folder}", *more]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(QUICK), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _trained(folder):
    """How often each fold of each setting was trained."""
    files = folder.glob("*/*/trained.txt")
    return {f"{f.parent.parent.name}/{f.parent.name}": len(f.read_text().split()) for f in files}


def _wait_for(condition, seconds=120):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)


@pytest.mark.slow
def test_a_grid_tries_every_setting_once_and_stops(write_sweep, tmp_path, capsys):
    command = ["sweep", f"--sweep={write_sweep()}", f"--run={tmp_path / 's'}", "--workers=2"]
    assert main.main(command) == 0
    said = capsys.readouterr().out
    settings = list(read_settings(tmp_path / "s").values())
    expected = [{"model.lr": lr, "model.nodes": n} for lr in ("0.001", "0.1", "0.01") for n in "48"]
    assert sorted(map(str, settings)) == sorted(map(str, expected))
    assert set(_trained(tmp_path / "s").values()) == {1}
    assert len(_trained(tmp_path / "s")) == 6 * 6
    lines = [line for line in said.splitlines() if " of 6 settings" in line]
    over = [int(line.rpartition("). ")[2].split()[0]) for line in lines]
    assert over == sorted(over), "two that end together may both count the other"
    assert len(over) == over[-1] == 6
    assert all((" left." in line) == (n < 6) for n, line in zip(over, lines, strict=True))
    assert any(line.startswith("model.lr=0.1 model.nodes=4: brier 0.0") for line in lines)
    assert "Best of 6 finished settings: model.lr=0.1 model.nodes=4, brier" in said
    assert main.main(command) == 0, "a sweep that is over trains nothing more"
    assert set(_trained(tmp_path / "s").values()) == {1}


@pytest.mark.slow
def test_the_table_has_every_setting_the_best_first(write_sweep, tmp_path):
    folder = tmp_path / "s"
    assert main.main(["sweep", f"--sweep={write_sweep()}", f"--run={folder}"]) == 0
    table = pd.read_csv(folder / "results.csv")
    assert table["model.lr"].tolist() == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert table["brier"].is_monotonic_increasing
    assert table["state"].unique().tolist() == ["finished"]
    for _, row in table.iterrows():
        predictions = pd.concat(map(_predictions, finished_folds(folder / row["name"])))
        repeats = [classification_metrics(rows) for _, rows in predictions.groupby("repeat")]
        assert row["brier"] == pytest.approx(sum(r["brier"] for r in repeats) / 2)
    report = (folder / "report.md").read_text()
    assert "**First: model.lr=0.1 model.nodes=4**" in report
    assert f"| {table['brier'][0]:.3f} ± 0.010 |" in report


def _predictions(fold):
    return read_predictions(fold / "predictions.csv")


@pytest.mark.slow
def test_a_grid_that_grows_trains_what_is_new_and_a_deleted_folder_again(write_sweep, tmp_path):
    command = ["sweep", f"--run={tmp_path / 's'}", f"--sweep={tmp_path / 'sweep.yaml'}"]
    parameters = {"model.lr": {"values": [0.1]}}
    write_sweep(parameters=parameters)
    assert main.main(command) == 0
    parameters["model.lr"]["values"] += [0.01, 0.001]
    write_sweep(parameters=parameters)
    assert main.main(command) == 0
    assert len(read_settings(tmp_path / "s")) == 3
    assert set(_trained(tmp_path / "s").values()) == {1}
    for file in sorted((tmp_path / "s/lr0.01").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    assert main.main(command) == 0
    assert len(_trained(tmp_path / "s")) == 3 * 6


@pytest.mark.slow
def test_two_commands_share_a_sweep_and_train_no_fold_twice(write_sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICK_FOLD_S", "0.1")
    both = [_start(write_sweep(), tmp_path / "s") for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trained = _trained(tmp_path / "s")
    assert len(trained) == 6 * 6
    assert set(trained.values()) == {1}


@pytest.mark.slow
def test_the_work_of_a_killed_command_is_completed(write_sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICK_FOLD_S", "0.2")
    process = _start(write_sweep(), tmp_path / "s", "--workers=2")
    _wait_for(lambda: len(_trained(tmp_path / "s")) >= 3)
    process.kill()
    process.communicate()
    done = _start(tmp_path / "sweep.yaml", tmp_path / "s", "--workers=2")
    said, _ = done.communicate(timeout=300)
    assert done.returncode == 0, said
    trained = _trained(tmp_path / "s")
    assert len(trained) == 6 * 6
    assert set(trained.values()) == {1}, "finished folds stay, and a training ends with its worker"
    assert pd.read_csv(tmp_path / "s/results.csv")["state"].unique().tolist() == ["finished"]


@pytest.mark.parametrize(("host", "age", "has_worker"), [("x", 0, True), ("x", 999, False)])
def test_a_worker_elsewhere_lives_as_long_as_its_log_is_fresh(
    write_sweep, tmp_path, host, age, has_worker
):
    search = Search(read_sweep(write_sweep()), tmp_path / "s", [])
    trial, _ = search._claim()
    trial.set_user_attr("worker", [host, 1])
    log = tmp_path / "s" / trial.user_attrs["name"] / LOG_NAME
    os.utime(log, (log.stat().st_mtime - age,) * 2)
    other = Search(search.sweep, tmp_path / "s", [])
    assert other._has_worker(other.study.trials[trial.number]) == has_worker
    names = [other._claim()[0].user_attrs["name"] for _ in range(6 - has_worker)]
    assert (trial.user_attrs["name"] in names) != has_worker
    assert other._claim() is None


@pytest.mark.slow
def test_a_signal_stops_the_trainings_and_the_same_command_continues(
    write_sweep, tmp_path, monkeypatch
):
    monkeypatch.setenv("QUICK_FOLD_S", "0.2")
    process = _start(write_sweep(), tmp_path / "s", "--workers=2")
    _wait_for(lambda: len(_trained(tmp_path / "s")) >= 3)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 75, said
    workers = {
        int(text) for f in tmp_path.glob("s/*/*/trained.txt") for text in f.read_text().split()
    }
    assert all(map(is_gone, workers)), "no training goes on without its sweep"
    monkeypatch.setenv("QUICK_FOLD_S", "0")
    assert (
        main.main(["sweep", f"--sweep={tmp_path / 'sweep.yaml'}", f"--run={tmp_path / 's'}"]) == 0
    )
    assert set(_trained(tmp_path / "s").values()) == {1}


@pytest.mark.slow
def test_a_setting_that_fails_is_listed_and_trained_again_on_request(
    write_sweep, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("QUICK_FAILS", "0.1")
    command = ["sweep", f"--sweep={write_sweep()}", f"--run={tmp_path / 's'}"]
    assert main.main(command) == 2
    error = capsys.readouterr().err
    assert "2 settings failed:\nmodel.lr=0.1 model.nodes=4: the training diverged" in error
    assert (
        sorted(pd.read_csv(tmp_path / "s/results.csv")["state"])
        == ["failed"] * 2 + ["finished"] * 4
    )
    assert "## Failed\n\n- model.lr=0.1" in (tmp_path / "s/report.md").read_text()
    monkeypatch.delenv("QUICK_FAILS")
    assert main.main(command) == 2, "nothing is trained again without being asked"
    assert main.main([*command, "--retry_failed"]) == 0
    assert pd.read_csv(tmp_path / "s/results.csv")["state"].unique().tolist() == ["finished"]
    assert set(_trained(tmp_path / "s").values()) == {1}


@pytest.mark.slow
def test_what_is_wrong_with_all_settings_is_one_line_before_any_training(
    write_sweep, tmp_path, capsys
):
    command = ["sweep", f"--sweep={write_sweep()}", f"--run={tmp_path / 's'}"]
    (tmp_path / "empty.csv").touch()
    assert main.main([*command, f"--data.table={tmp_path / 'empty.csv'}"]) == 2
    assert capsys.readouterr().err == "error: The cohort table is empty.\n"
    assert not list(tmp_path.glob("s/*/failed.json"))
    assert main.main(command) == 0, "the next try is not bound by the first"
    assert main.main([*command, "--fold=1"]) == 2
    assert "drop --fold=1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_tries_as_many_settings_as_it_may_and_stops_the_worst_early(
    write_space, tmp_path, monkeypatch
):
    monkeypatch.setenv("QUICK_FOLD_S", "0.3")
    rule = {"type": "hyperband", "min_iter": 3, "eta": 2}
    folder = tmp_path / "s"
    search = Search(read_sweep(write_space(early_terminate=rule)), folder, [], workers=2)
    search.run()
    known = read_settings(folder)
    assert len(known) == 9
    pruned = {place for place in known if (place / PRUNED_NAME).is_file()}
    assert pruned
    for place in known:
        assert (len(finished_folds(place)) < 6) == (place in pruned)
        assert (place / "report.html").is_file() == (place not in pruned)
    states = {trial.user_attrs["name"]: trial.state for trial in search.study.trials}
    assert {name for name, s in states.items() if s == TrialState.PRUNED} == {
        place.name for place in pruned
    }
    best = min(known, key=lambda place: running_figures(finished_folds(place)[:3])["brier"])
    assert best not in pruned


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bayes", "random"])
def test_a_search_that_was_stopped_draws_like_one_that_was_not(
    write_space, tmp_path, monkeypatch, method
):
    sweep = read_sweep(write_space(method=method, run_cap=12))
    Search(sweep, tmp_path / "whole", []).run()
    tell, told = Search._tell, []

    def stop_now_and_then(self, trial, folder):
        told.append(folder)
        if len(told) % 3 == 0:
            raise KeyboardInterrupt
        tell(self, trial, folder)

    monkeypatch.setattr(Search, "_tell", stop_now_and_then)
    for _ in range(30):
        try:
            search = Search(sweep, tmp_path / "stopped", [])
            monkeypatch.setattr(search, "_has_worker", lambda _: False)
            search.run()
        except KeyboardInterrupt:
            continue
        break
    whole, stopped = (read_settings(tmp_path / name) for name in ("whole", "stopped"))
    assert len(told) > 12
    assert sorted(map(str, whole.values())) == sorted(map(str, stopped.values()))
    assert len(whole) == 12
    assert set(_trained(tmp_path / "stopped").values()) == {1}


@pytest.mark.slow
def test_bayesian_search_comes_closer_to_the_best_than_chance(write_space, tmp_path):
    search = Search(read_sweep(write_space(run_cap=21)), tmp_path / "s", [])
    for number in range(20):
        trial, setting = search._claim()
        search.study.tell(trial, -math.log10(float(setting["model.lr"])))
        (tmp_path / "s" / trial.user_attrs["name"] / "report.html").touch()
        assert trial.number == number
    _, setting = search._claim()
    assert math.log10(float(setting["model.lr"])) > -1, "draws are between -4 and 0, 0 is best"


def test_a_space_that_is_exhausted_ends_the_search(write_space, tmp_path):
    path = write_space(parameters={"model.lr": {"values": [0.1, 0.2]}})
    Search(read_sweep(path), tmp_path / "s", []).run()
    tried = sorted(setting["model.lr"] for setting in read_settings(tmp_path / "s").values())
    assert tried == ["0.1", "0.2"]
    assert set(_trained(tmp_path / "s").values()) == {1}


def test_a_search_without_an_end_or_with_another_rule_is_refused(write_space, tmp_path):
    with pytest.raises(ValueError, match="no run_cap"):
        Search(read_sweep(write_space(run_cap=None)), tmp_path, [])
    rule = {"type": "hyperband", "max_iter": 27, "s": 2}
    with pytest.raises(ValueError, match="with min_iter"):
        Search(read_sweep(write_space(early_terminate=rule)), tmp_path, [])


def test_settings_are_looked_at_after_min_iter_folds_times_powers_of_eta(write_space):
    rule = {"type": "hyperband", "min_iter": 2, "eta": 2}
    study = optuna.create_study(
        direction="minimize", pruner=read_sweep(write_space(early_terminate=rule)).pruner()
    )
    for _ in range(3):
        good = study.ask()
        for step in range(1, 5):
            good.report(0.1, step)
            assert not good.should_prune()
    bad = study.ask()
    bad.report(0.5, 1)
    assert not bad.should_prune()
    bad.report(0.5, 2)
    assert bad.should_prune()


@pytest.mark.slow
def test_figures_so_far_are_those_of_the_first_folds(write_sweep, tmp_path):
    main.main(["sweep", f"--sweep={write_sweep()}", f"--run={tmp_path / 's'}"])
    folds = finished_folds(tmp_path / "s/lr0.1-nodes4")
    assert [fold.name for fold in folds] == [f"repeat{r}_fold{f}" for r in (0, 1) for f in range(3)]
    tables = [_predictions(fold) for fold in folds[:4]]
    assert running_figures(folds[:4]) == running_mean(pd.concat(tables))
    assert running_figures([]) == {}
    mean = json.loads((tmp_path / "s/lr0.1-nodes4/metrics.json").read_text())["mean"]
    assert running_figures(folds)["brier"] == pytest.approx(mean["brier"])
    first, second = (
        classification_metrics(table)["auroc"]
        for table in (pd.concat(tables[:3]), pd.concat(tables[3:]))
    )
    assert running_figures(folds[:4])["auroc"] == pytest.approx((12 * first + 4 * second) / 16)


@pytest.mark.parametrize(
    ("seconds", "words"), [(41.2, "41 s"), (130, "2 min"), (9000, "2.5 h"), (0.1, "0 s")]
)
def test_a_duration_has_the_unit_that_fits(seconds, words):
    assert duration(seconds) == words
