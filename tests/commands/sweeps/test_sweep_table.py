import json

import numpy as np
import pandas as pd
import pytest
import yaml

from commands.sweeps.sweep_file import read_sweep, write_setting
from commands.sweeps.sweep_table import draw_settings, sweep_report, sweep_table, write_sweep_table

KEYS = ["model.lr", "model.depth", "config"]
DONE = {
    "mean": {"auroc": 0.8, "mcc": 0.6},
    "sd": {"auroc": 0.02, "mcc": None},
    "interval_95": {"auroc": [0.7, 0.9]},
}


@pytest.fixture
def table(tmp_path):
    """Forty settings, of which thirty are finished."""
    generator = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / f"s/setting{number:02d}"
        config = {} if number == 5 else {"config": f"some/net{number % 2}.yaml"}
        lr = f"{10 ** generator.uniform(-4, -1):.3g}"
        write_setting(folder, {"model.lr": lr, "model.depth": str(number % 3)} | config)
        if number % 4:
            mean = {"auroc": generator.random(), "mcc": generator.random()}
            (folder / "metrics.json").write_text(json.dumps(DONE | {"mean": mean}))
            (folder / "report.html").touch()
        elif number % 8:
            (folder / "pruned.json").touch()
    return lambda name, goal: sweep_table(_sweep(tmp_path, name, goal), tmp_path / "s")


def _sweep(folder, name="auroc", goal="maximize"):
    content = {"method": "bayes", "metric": {"name": f"cv/{name}", "goal": goal}}
    content["parameters"] = {key: {"values": ["1"]} for key in KEYS}
    (folder / "own.yaml").write_text(yaml.safe_dump(content))
    return read_sweep(folder / "own.yaml")


@pytest.mark.parametrize("name", ["auroc", "mcc"])
def test_finished_settings_come_first_and_the_best_on_top(table, name):
    for goal in ("maximize", "minimize"):
        ordered = table(name, goal)
        assert ordered["state"].tolist()[:30] == ["finished"] * 30
        assert sorted(ordered["state"][30:]) == ["stopped early"] * 5 + ["unfinished"] * 5
        values = ordered[name][:30]
        assert (
            values.is_monotonic_increasing
            if goal == "minimize"
            else values[::-1].is_monotonic_increasing
        )


def test_the_report_counts_the_settings_and_calls_the_best_optimistic(table):
    ordered = table("auroc", "maximize")
    report = sweep_report(ordered, KEYS, "auroc", ["model.lr=1: it diverged"], has_picture=True)
    best = ordered.iloc[0]
    assert "40 settings were tried: 30 finished, 5" in report
    assert "**Optimistic:** the first of 40 settings" in report
    assert f"**First: model.lr={best['model.lr']} model.depth={best['model.depth']}" in report
    assert f"auroc {best['auroc']:.3f} ± 0.020 (sd over repeats)" in report
    assert f"| {best['model.lr']} | {best['model.depth']} | {best['config']} | finished |" in report
    assert "The other 10 are in results.csv." in report
    assert "- model.lr=1: it diverged" in report
    assert "](settings.png)" in report


def test_without_a_finished_setting_the_table_tells_that(tmp_path):
    write_setting(tmp_path / "s/one", {"model.lr": "1"})
    said = write_sweep_table(_sweep(tmp_path), tmp_path / "s")
    assert said.startswith("No setting is finished yet.")
    assert pd.read_csv(tmp_path / "s/results.csv")["state"].tolist() == ["unfinished"]
    assert "1 settings were tried: 1 unfinished" in (tmp_path / "s/report.md").read_text()


@pytest.mark.slow
def test_the_picture_has_a_panel_for_every_key_that_varies(table, tmp_path):
    path, ordered = tmp_path / "picture.png", table("auroc", "maximize")
    assert draw_settings(ordered, KEYS, "auroc", path)
    assert path.stat().st_size > 10_000
    assert not draw_settings(ordered.assign(x="1"), ["x"], "auroc", path)
    assert not draw_settings(ordered.head(0), KEYS, "auroc", path)
