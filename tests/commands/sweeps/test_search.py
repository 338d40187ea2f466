"""The local search, with trainings that only write what they are said to predict."""

import json
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import yaml

from commands.runs.run_folder import FoldRun, fold_folder
from commands.sweeps import search as searching
from commands.sweeps import sweep_table
from commands.sweeps.search import draw, is_behind, rungs_of, search
from commands.sweeps.sweep_file import read_sweep, setting_name
from commands.sweeps.sweep_table import PRUNED_NAME, read_settings, running_figures
from evaluation.metrics import classification_metrics, running_mean, summarise
from evaluation.predictions import read_predictions, write_table

NUM_FOLDS = 6


def _predictions(repeat, fold, quality):
    """Four patients of a fold; the higher the quality, the better they are told apart."""
    labels = ["healthy", "unhealthy"] * 2
    noise = np.random.default_rng((repeat, fold)).random(4)
    probs = [
        quality * (label == "unhealthy") + (1 - quality) * x
        for label, x in zip(labels, noise, strict=True)
    ]
    table = pd.DataFrame({"patient_id": [f"p{fold}{n}" for n in range(4)], "image": "x"})
    table = table.assign(repeat=repeat, fold=fold, label=labels)
    table = table.assign(prob_healthy=[1 - p for p in probs], prob_unhealthy=probs)
    decided = ["unhealthy" if p > 0.5 else "healthy" for p in probs]
    return table.assign(predicted=decided, confidence=[abs(2 * p - 1) for p in probs])


def _lead(predictions):
    """A figure in the place of AUROC that is quick to compute and has no ties."""
    leads = predictions["prob_unhealthy"].where(predictions["label"] == "unhealthy")
    return {"auroc": float(leads.mean())}


class _Run:
    """A setting whose learning rate is its quality."""

    trained: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, folder, setting):
        self.folder = folder
        self.quality = 1 + math.log10(float(setting["model.lr"])) / 4
        self.fold_runs = [
            FoldRun(n // 3, n % 3, fold_folder(folder, n // 3, n % 3)) for n in range(6)
        ]

    def train(self, cell, claim):
        assert claim.is_ours()
        _Run.trained.append((self.folder.name, cell.folder.name))
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_table(
            _predictions(cell.repeat, cell.fold, self.quality), cell.folder / "predictions.csv"
        )
        cell.finish({"wall_time_s": 0.0})

    def gather(self):
        (self.folder / "report.html").write_text("")


@pytest.fixture
def space(tmp_path, monkeypatch):
    content = yaml.safe_load(Path("configs/sweeps/training.yaml").read_text())
    content["parameters"] = {
        "model.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0},
        "model.freeze_encoder": {"values": [False, True]},
    }
    content |= {"run_cap": 9}
    content["early_terminate"] |= {"min_iter": 3}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(
        searching, "setting_run", lambda _, folder, s: _Run(folder / setting_name(s), s)
    )
    monkeypatch.setattr(_Run, "trained", [])
    monkeypatch.setattr(sweep_table, "running_mean", _lead)
    return read_sweep(tmp_path / "space.yaml")


def test_a_search_tries_as_many_settings_as_it_may_and_stops_the_worst_early(space, tmp_path):
    search(space, tmp_path / "s", [])
    known = read_settings(tmp_path / "s")
    assert len(known) == 9
    pruned = {place for place in known if (place / PRUNED_NAME).is_file()}
    assert pruned
    for place in known:
        assert running_figures(place)[0] == (3 if place in pruned else NUM_FOLDS)
        assert (place / "report.html").is_file() == (place not in pruned)
    trained = len(_Run.trained)
    search(space, tmp_path / "s", [])
    assert len(_Run.trained) == trained, "a search that is over tries nothing more"


@pytest.mark.slow
def test_a_search_that_was_stopped_ends_like_one_that_was_not(space, tmp_path, monkeypatch):
    search(space, tmp_path / "whole", [])
    original = _Run.train

    def stop_now_and_then(self, cell, claim):
        original(self, cell, claim)
        if len(_Run.trained) % 7 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Run, "train", stop_now_and_then)
    monkeypatch.setattr(_Run, "trained", [])
    for _ in range(20):
        try:
            search(space, tmp_path / "broken", [])
        except KeyboardInterrupt:
            continue
        break
    whole, broken = (read_settings(tmp_path / name) for name in ("whole", "broken"))
    assert list(whole.values()) == list(broken.values())
    assert len(set(_Run.trained)) == len(_Run.trained), "no fold is trained twice"


def test_what_comes_next_depends_on_the_known_settings_alone(space, tmp_path):
    search(space, tmp_path / "s", [])
    known = read_settings(tmp_path / "s")
    assert draw(space, known) == draw(space, known)
    new = draw(space, known)
    assert new not in known.values()
    assert 1e-4 <= float(new["model.lr"]) <= 1.0
    fewer = dict(list(known.items())[:3])
    assert draw(space, fewer) != new


@pytest.mark.slow
def test_bayesian_search_comes_closer_to_the_best_than_chance(space, tmp_path):
    space.content["run_cap"] = 20
    search(space, tmp_path / "s", [])
    known = read_settings(tmp_path / "s")
    bayes = math.log10(float(draw(space, known)["model.lr"]))
    assert bayes > -1, "random draws are between -4 and 0, and 0 is best"


def test_a_space_that_is_exhausted_ends_the_search(space, tmp_path):
    space.content["parameters"] = {"model.lr": {"values": [0.1, 0.2]}}
    del space.content["early_terminate"]
    search(space, tmp_path / "s", [])
    assert sorted(setting["model.lr"] for setting in read_settings(tmp_path / "s").values()) == [
        "0.1",
        "0.2",
    ]


def test_a_setting_that_fails_is_written_down_and_the_search_goes_on(space, tmp_path, monkeypatch):
    original = _Run.train

    def fail(self, cell, claim):
        if len({name for name, _ in _Run.trained}) == 2:
            _Run.trained.append(("failed", ""))
            raise ValueError("the training\ndiverged")
        original(self, cell, claim)

    monkeypatch.setattr(_Run, "train", fail)
    search(space, tmp_path / "s", [])
    (failure,) = (tmp_path / "s").glob("*/failed.json")
    assert json.loads(failure.read_text())["error"] == "the training diverged"
    assert len(read_settings(tmp_path / "s")) == 9


def test_without_run_cap_a_search_has_no_end_and_is_refused(space, tmp_path):
    del space.content["run_cap"]
    with pytest.raises(ValueError, match="no run_cap"):
        search(space, tmp_path / "s", [])


def test_rungs_are_min_iter_times_powers_of_eta(space):
    space.content["early_terminate"] = {"type": "hyperband", "min_iter": 2, "eta": 2}
    assert list(rungs_of(space, 16)) == [2, 4, 8]
    space.content["early_terminate"] = {"type": "hyperband", "max_iter": 27, "s": 2}
    with pytest.raises(ValueError, match="with min_iter"):
        list(rungs_of(space, 16))


@pytest.mark.parametrize(
    ("value", "others", "eta", "behind"),
    [
        (0.9, [0.8, 0.7, 0.6], 2, False),
        (0.7, [0.9, 0.8, 0.6], 2, False),  # the third of four is where half of them end
        (0.6, [0.9, 0.8, 0.7], 2, True),
        (0.8, [0.9, 0.7], 3, False),
        (0.7, [0.9, 0.8], 3, True),
        (0.5, [], 2, False),  # nobody to be behind
    ],
)
def test_who_is_behind_the_best_share(value, others, eta, behind):
    assert is_behind(value, others, eta, maximize=True) == behind
    assert is_behind(-value, [-other for other in others], eta, maximize=False) == behind


def test_a_running_mean_over_all_folds_is_the_mean_of_the_report():
    cells = [(repeat, fold) for repeat in range(2) for fold in range(3)]
    tables = [_predictions(*cell, 0.2) for cell in cells]
    whole = pd.concat(tables, ignore_index=True)
    mean = summarise(whole)["mean"]
    assert running_mean(whole) == pytest.approx({k: v for k, v in mean.items() if v == v})
    part = pd.concat(tables[:4], ignore_index=True)
    first, second = (classification_metrics(part[part["repeat"] == r])["auroc"] for r in (0, 1))
    assert running_mean(part)["auroc"] == pytest.approx((12 * first + 4 * second) / 16)
    healthy = tables[0][tables[0]["label"] == "healthy"]
    assert "auroc" not in running_mean(healthy), "one class has no AUROC yet"


def test_running_figures_take_the_folds_in_their_order(space, tmp_path):
    run = _Run(tmp_path / "x", {"model.lr": "0.01"})
    for cell in run.fold_runs[::-1]:
        cell.folder.mkdir(parents=True)
        write_table(_predictions(cell.repeat, cell.fold, 0.3), cell.folder / "predictions.csv")
        cell.finish({})
    number, figures = running_figures(run.folder, 4)
    tables = [read_predictions(cell.folder / "predictions.csv") for cell in run.fold_runs[:4]]
    assert (number, figures) == (4, _lead(pd.concat(tables)))
    assert running_figures(tmp_path / "none") == (0, {})
