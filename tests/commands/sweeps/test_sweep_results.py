import numpy as np
import pandas as pd
import pytest

from commands.sweeps.sweep_results import (
    FIGURES,
    best_first,
    draw_parallel_coordinates,
    write_sweep_report,
)

KEYS = ["model.lr", "model.depth", "config"]


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    rows = [
        {
            "name": f"setting{number}",
            "state": "finished" if number % 4 else "stopped early",
            "folds": 6,
            **dict.fromkeys(FIGURES, generator.random()),
            "model.lr": str(10 ** generator.uniform(-4, -1)),
            "model.depth": str(number % 3),
            "config": None if number == 5 else f"some/net{number % 2}.yaml",
        }
        for number in range(40)
    ]
    return pd.DataFrame(rows)


def test_finished_settings_come_first_and_the_best_on_top(table):
    for maximize in (True, False):
        ordered = best_first(table, "auroc", maximize=maximize)
        finished = ordered[ordered["state"] == "finished"]
        assert list(finished.index) == list(range(30))
        values = finished["auroc"]
        assert values.is_monotonic_decreasing if maximize else values.is_monotonic_increasing


def test_the_report_counts_the_settings_and_calls_the_best_optimistic(table):
    ordered = best_first(table, "auroc", maximize=True)
    report = write_sweep_report(
        ordered, KEYS, "auroc", "bayes", ["setting3/repeat0_fold1: it diverged"], has_picture=True
    )
    assert "40 settings were tried: 30 finished, 10 stopped early" in report
    assert "**Optimistic:** the first of 40 settings" in report
    assert f"**First: {ordered['name'][0]}**" in report
    assert "The other 10 are in results.csv." in report
    assert "- setting3/repeat0_fold1: it diverged" in report


def test_the_picture_has_an_axis_for_every_key_that_varies(table, tmp_path):
    path = tmp_path / "picture.png"
    assert draw_parallel_coordinates(table, KEYS, "auroc", path)
    assert path.stat().st_size > 10_000
    assert not draw_parallel_coordinates(table.assign(x="1"), ["x"], "auroc", path)
    assert not draw_parallel_coordinates(table.head(0), KEYS, "auroc", path)
