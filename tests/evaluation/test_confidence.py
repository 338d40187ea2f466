"""What confidence is worth, which labels to doubt, and figures of parts of the cohort."""

import numpy as np
import pandas as pd
import pytest
from predictions import as_predictions, draw_predictions
from scipy.stats import spearmanr

from evaluation.confidence import accuracy_by_coverage, confidence_summary, suspected_labels
from evaluation.subgroups import subgroup_rows
from evaluation.uncertainty import estimates


def test_the_area_under_the_risk_coverage_curve_is_the_mean_error_of_all_prefixes():
    logits = np.array([[0, 3.0], [0, 2.0], [1.0, 0], [0, 0.5]])
    table = as_predictions(logits, [1, 0, 0, 1])  # right, wrong, right, right by confidence
    figures = confidence_summary(table)
    order = [1, 0, 1, 1]
    errors = [1 - np.mean(order[: n + 1]) for n in range(4)]
    assert figures["area_under_risk_coverage"] == pytest.approx(np.mean(errors))
    assert figures["coverage_at_error"] == {"0.05": 0.25, "0.1": 0.25}


def test_a_constant_predictor_decides_nothing_at_a_small_error():
    true = np.array([1] * 70 + [0] * 30)
    for order in (np.arange(100), np.arange(100)[::-1]):
        table = as_predictions(np.tile([-1.0, 1.0], (100, 1)), true[order])
        figures = confidence_summary(table)
        assert figures["coverage_at_error"] == {"0.05": 0.0, "0.1": 0.0}
        assert figures["area_under_risk_coverage"] == pytest.approx(0.3)
        curve = accuracy_by_coverage(table)
        assert curve[["coverage", "accuracy"]].to_numpy().tolist() == [[1.0, 0.7]]
    twice = pd.concat([table, table.assign(repeat=1)])
    assert confidence_summary(twice)["rank_correlation"] is None


def test_cases_of_equal_confidence_are_decided_in_any_order():
    logits = np.array([[0, 3.0], [0, 1.0], [0, 1.0], [0, 1.0], [0, 0.2]])
    table = as_predictions(logits, [1, 0, 1, 1, 1])  # one of the three is wrong
    orders = [[1, 0, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1]]
    errors = [np.mean([1 - np.mean(order[: n + 1]) for n in range(5)]) for order in orders]
    figures = confidence_summary(table)
    assert figures["area_under_risk_coverage"] == pytest.approx(np.mean(errors))
    assert figures["coverage_at_error"] == {"0.05": 0.2, "0.1": 0.2}
    assert accuracy_by_coverage(table)["coverage"].tolist() == [0.2, 0.8, 1.0]


def test_a_confidence_that_knows_its_errors_lets_more_cases_be_decided():
    table = draw_predictions(num_scans=400, signal=1.5)
    random = table.assign(confidence=np.random.default_rng(0).random(400))
    knowing, blind = confidence_summary(table), confidence_summary(random)
    error_rate = (table["label"] != table["predicted"]).mean()
    assert knowing["area_under_risk_coverage"] < 0.8 * error_rate
    assert blind["area_under_risk_coverage"] == pytest.approx(error_rate, abs=0.06)
    assert knowing["coverage_at_error"]["0.1"] > blind["coverage_at_error"]["0.1"]


def test_the_order_of_two_repeats_is_compared_by_spearmans_correlation():
    table = draw_predictions(num_scans=50, num_repeats=2)
    first, second = (rows["confidence"].to_numpy() for _, rows in table.groupby("repeat"))
    figures = confidence_summary(table)
    assert figures["rank_correlation"] == pytest.approx(spearmanr(first, second).statistic)
    flips = table.pivot(index="image", columns="repeat", values="predicted").nunique(axis=1) > 1
    assert figures["share_flipped"] == pytest.approx(flips.mean())
    assert confidence_summary(table[table["repeat"] == 0])["rank_correlation"] is None


def test_labels_that_were_swapped_come_first_among_the_suspects():
    table = draw_predictions(num_scans=80, signal=3.0, num_repeats=3, per_patient=1)
    other = {"healthy": "unhealthy", "unhealthy": "healthy"}
    swapped = [f"{n}.nii" for n in (3, 14, 25, 36, 47)]
    wrong = table["image"].isin(swapped)
    table.loc[wrong, "label"] = table.loc[wrong, "label"].map(other)
    suspects = suspected_labels(table)
    assert set(suspects["image"].head(5)) == set(swapped)
    assert suspects["suspected"].head(4).all()
    assert suspects["suspected"].sum() < 8


def test_one_repeat_suspects_nobody():
    assert not suspected_labels(draw_predictions(num_scans=200))["suspected"].any()


def describe(table, **columns):
    scans = table[["patient_id", "image"]].drop_duplicates()
    return scans.assign(**columns)


def test_groups_are_measured_as_if_they_were_alone():
    table = draw_predictions(num_scans=80, num_repeats=2, per_patient=1)
    cohort = describe(table, site=["a", "a", "b", "b"] * 20, age=[str(n) for n in range(80)])
    rows = subgroup_rows(table, cohort).set_index(["column", "group"])
    assert list(rows.index) == [("site", "a"), ("site", "b"), ("age", "< 39.5"), ("age", "≥ 39.5")]
    alone = table[table["image"].isin(cohort.loc[cohort["site"] == "a", "image"])]
    assert rows.loc[("site", "a"), "auroc"] == pytest.approx(estimates(alone)["auroc"])
    assert rows.loc[("site", "a"), "num_patients"] == 40


def test_a_group_of_few_patients_gets_no_figure_and_empty_cells_are_a_group():
    table = draw_predictions(num_scans=40, per_patient=1)
    rows = subgroup_rows(table, describe(table, site=["a"] * 30 + [""] * 8 + ["b"] * 2))
    rows = rows.set_index("group")
    assert np.isnan(rows.loc["b", "auroc"])
    assert rows.loc["(missing)", "num_scans"] == 8
    assert np.isnan(rows.loc["(missing)", "auroc"])
    assert rows.loc["a", "auroc_low"] < rows.loc["a", "auroc"] < rows.loc["a", "auroc_high"]


def test_a_column_that_divides_nothing_or_everything_is_left_out():
    table = draw_predictions(num_scans=40, per_patient=1)
    cohort = describe(table, site="a", name=[f"n{n}" for n in range(40)])
    assert isinstance(rows := subgroup_rows(table, cohort), pd.DataFrame)
    assert rows.empty
