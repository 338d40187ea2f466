"""No figure depends on the order of a table's rows, also where outputs tie."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from predictions import as_predictions, as_run

from evaluation.calibration import calibrate, calibration_error, fit_calibration, reliability
from evaluation.comparison import compare_runs, hard_vote, soft_vote
from evaluation.confidence import accuracy_by_coverage, suspected_labels
from evaluation.conformal import prediction_sets
from evaluation.metrics import running_mean
from evaluation.predictions import as_cases, per_scan, ranking_table, with_decision
from evaluation.sanity import sanity_row
from evaluation.subgroups import subgroup_rows
from evaluation.summary import summarise_run
from evaluation.uncertainty import auroc_influence

NUM_SCANS = 24
KEY = ["repeat", "fold", "patient_id", "image"]


def draw_tied(num_classes=2, seed=0, num_repeats=3):
    """Draw outputs of one digit, so that many tie; a patient has three scans."""
    generator = np.random.default_rng(seed)
    true = np.arange(NUM_SCANS) // 3 % num_classes
    tables = []
    for repeat in range(num_repeats):
        table = as_predictions(np.zeros((NUM_SCANS, num_classes)), true, repeat, per_patient=3)
        names = [column for column in table if column.startswith("prob_")]
        lead = 0.2 * np.eye(num_classes)[true]
        table[names] = np.round(0.8 * generator.random((NUM_SCANS, num_classes)) + lead, 1)
        tables.append(with_decision(table))
    return pd.concat(tables, ignore_index=True)


def every_figure(table, validation, other):
    """Call every public function of evaluation/ that takes a predictions table."""
    run = as_run(table, validation)
    held = run.held_out
    cohort = run.cohort.sort_values(["patient_id", "image"], ignore_index=True)
    cohort = cohort.assign(site=["a", "b"] * (len(cohort) // 2))
    ordered = table.sort_values(KEY)
    return {
        "summary": summarise_run(run),
        "cases": as_cases(table).sort_values(KEY, ignore_index=True),
        "by scan": ranking_table(per_scan(table)),
        "running mean": running_mean(table[table["fold"] != 3]),
        "reliability": reliability(table),
        "ece": calibration_error(table),
        "fit": list(asdict(fit_calibration(table)).values()),
        "calibrated": calibrate(table, held).sort_values(KEY, ignore_index=True),
        "coverage": accuracy_by_coverage(table),
        "suspects": suspected_labels(table),
        "ranking": ranking_table(table),
        "sets": prediction_sets(table, held).sort_values(KEY, ignore_index=True),
        "sanity": sanity_row("?", table, "!"),
        "subgroups": subgroup_rows(table, cohort),
        "influence": auroc_influence(table),
        "comparison": compare_runs({"a": table, "b": other}, "a"),
        "soft": soft_vote({"a": table, "b": other}),
        "hard": hard_vote({"a": table, "b": other}),
        "columns": list(ordered),
    }


def assert_same(one, two, name=""):
    if isinstance(one, dict):
        assert one.keys() == two.keys(), name
        for key in one:
            assert_same(one[key], two[key], f"{name}.{key}")
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, two, obj=name, rtol=1e-9, atol=1e-12)
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), name
        for first, second in zip(one, two, strict=True):
            assert_same(first, second, name)
    elif isinstance(one, float | np.ndarray):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12, err_msg=name)
    else:
        assert one == two, name


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 3])
def test_shuffled_rows_give_the_same_figures(num_classes, monkeypatch):
    monkeypatch.setattr("evaluation.calibration.NUM_NULL_DRAWS", 50)
    tables = [draw_tied(num_classes, seed) for seed in range(3)]
    shuffled = [table.sample(frac=1, random_state=5 + n) for n, table in enumerate(tables)]
    shuffled[1] = shuffled[1].reset_index(drop=True)
    assert_same(every_figure(*tables), every_figure(*shuffled))
