"""Measures of a regression, their intervals and comparisons, against scikit-learn and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk
from targets import draw_numbers

from evaluation.predictions import read_predictions, write_table
from evaluation.regression import (
    case_sums,
    mean_vote,
    measures_of,
    number_cases,
    regression_estimates,
    running_measures,
    spread_ranking,
)
from evaluation.regression_intervals import (
    compare_regressions,
    difference_interval,
    difference_p,
    regression_intervals,
)
from evaluation.regression_summary import mean_predictor, rounded_grades, summarise_regression
from evaluation.report.regression_sentences import bias_sentence, number_verdict, unit_number
from evaluation.summary import RunTables
from evaluation.verification import table_faults


def as_tables(predictions):
    """Splits and cohort of a predictions table: everybody else trains."""
    patients = sorted(set(predictions["patient_id"]))
    rows = [
        (r, f, who, "test" if who in set(rows["patient_id"]) else "train")
        for (r, f), rows in predictions.groupby(["repeat", "fold"])
        for who in patients
    ]
    splits = pd.DataFrame(rows, columns=["repeat", "fold", "patient_id", "part"])
    cohort = predictions[["patient_id", "image", "target"]].drop_duplicates()
    return splits, cohort.assign(file_hash="", site="", target=cohort["target"].astype(str))


def test_measures_are_those_of_scikit_learn_and_scipy():
    table = draw_numbers()
    true, predicted = table["target"], table["predicted"]
    line, bias = stats.linregress(predicted, true), stats.linregress(true, predicted - true)
    assert regression_estimates(table) == pytest.approx(
        {
            "mae": sk.mean_absolute_error(true, predicted),
            "rmse": sk.root_mean_squared_error(true, predicted),
            "r2": sk.r2_score(true, predicted),
            "r": stats.pearsonr(true, predicted).statistic,
            "slope": line.slope,
            "bias": (predicted - true).mean(),
            "bias_slope": bias.slope,
        }
    )
    constant = regression_estimates(table.assign(predicted=3.0))
    assert np.isnan([constant["r"], constant["slope"]]).all()
    assert constant["bias_slope"] == pytest.approx(-1)


def test_a_patients_scans_are_averaged_unless_each_scan_is_a_case():
    table = draw_numbers(num_patients=20, per_patient=3, num_repeats=2)
    means = table.groupby(["repeat", "patient_id"])[["target", "predicted"]].mean()
    found = regression_estimates(table.assign(target=table["target"]))["mae"]
    assert found == pytest.approx((means["predicted"] - means["target"]).abs().mean())
    assert len(number_cases(table)) == 40
    scans = table.assign(case=table["image"])
    errors = (table["predicted"] - table["target"]).abs()
    assert regression_estimates(scans)["mae"] == pytest.approx(errors.mean())
    assert list(number_cases(scans).columns) == list(scans.columns)


def test_cases_are_ranked_by_their_spread_over_repeats(tmp_path):
    table = draw_numbers(num_patients=8, num_repeats=4, luck=0.5)
    ranking = spread_ranking(table)
    by_patient = table.groupby("patient_id")["predicted"]
    spread = ranking.set_index("patient_id")["spread"]
    pd.testing.assert_series_equal(spread.sort_index(), by_patient.std(), check_names=False)
    assert ranking["spread"].is_monotonic_decreasing
    assert list(ranking["rank"]) == [*range(1, 9)]
    one = spread_ranking(table[table["repeat"] == 0])
    assert one["spread"].isna().all()
    assert list(one["patient_id"]) == sorted(one["patient_id"])
    write_table(table, tmp_path / "predictions.csv")
    read = read_predictions(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(spread_ranking(read), ranking, rtol=1e-6)


def test_the_running_measures_of_all_folds_are_the_means_over_repeats():
    table = draw_numbers(num_repeats=3, luck=0.4)
    assert running_measures(table) == pytest.approx(regression_estimates(table))
    some = table[(table["repeat"] == 0) | (table["fold"] == 0)]
    weights = some.groupby("repeat").size().to_numpy()
    each = [regression_estimates(rows)["mae"] for _, rows in some.groupby("repeat")]
    assert running_measures(some)["mae"] == pytest.approx(np.average(each, weights=weights))
    alone = table[:1]
    assert running_measures(alone).keys() == {"mae", "rmse", "bias"}


def test_a_paired_difference_of_one_repeat_is_the_paired_t_test_of_absolute_errors():
    first, second = draw_numbers(), draw_numbers()
    second["predicted"] += np.random.default_rng(1).normal(0, 0.5, len(second))
    errors = [(table["predicted"] - table["target"]).abs() for table in (first, second)]
    theirs = stats.ttest_rel(*errors)
    interval = theirs.confidence_interval(0.95)
    found = difference_interval(first, second, "mae")
    assert found == pytest.approx((interval.low, interval.high))
    assert difference_p(first, second) == pytest.approx(theirs.pvalue)
    assert difference_p(first, first) == 1


def test_scans_and_repeats_that_agree_count_as_one():
    table = draw_numbers(num_patients=30)
    twice = pd.concat([table, table.assign(repeat=1)])
    scans = pd.concat([table, table.assign(image="again")]).assign(case="x")
    for copy in (twice, scans):
        for name, interval in regression_intervals(copy).items():
            assert interval == pytest.approx(regression_intervals(table)[name]), name


def test_leaving_a_patient_out_of_the_sums_is_leaving_him_out_of_the_table():
    table = draw_numbers(num_patients=12, per_patient=2, num_repeats=2, luck=0.3)
    sums = case_sums(number_cases(table))
    without = measures_of(sums.sum(axis=1)[:, None] - sums)
    rest = regression_estimates(table[table["patient_id"] != "p004"])
    assert {name: values[:, 4].mean() for name, values in without.items()} == pytest.approx(rest)


@pytest.mark.slow
@pytest.mark.parametrize(("num_patients", "noise"), [(25, 1.0), (60, 2.0)])
def test_95_percent_intervals_hold_the_true_figure_in_about_95_percent_of_cohorts(
    num_patients, noise
):
    truth = regression_estimates(draw_numbers(200_000, noise=noise, seed=10_000))
    trials = [
        regression_intervals(draw_numbers(num_patients, 2, noise, seed)) for seed in range(600)
    ]
    for name, value in truth.items():
        held = np.mean([low <= value <= high for low, high in (each[name] for each in trials)])
        assert 0.92 <= held <= 0.98, (name, held)


@pytest.mark.slow
def test_runs_are_compared_patient_by_patient_and_other_scans_are_refused():
    table = draw_numbers(num_repeats=3, luck=0.3)
    worse = table.assign(predicted=table["predicted"] + 2)
    mixed = mean_vote({"a": table, "b": worse.sample(frac=1, random_state=0)})
    found = compare_regressions({"a": table, "worse": worse, "vote": mixed}, "a")
    assert found.loc["worse", "p_mae_holm"] < 0.001
    assert found.loc["worse", "mae_diff_low"] > 0
    assert np.isnan(found.loc["a", "mae_diff"])
    moved = mixed.sort_values(["repeat", "patient_id"])["predicted"].to_numpy()
    np.testing.assert_allclose(moved, table["predicted"] + 1)
    other = table.assign(target=table["target"] + 1)
    with pytest.raises(ValueError, match="did not predict the same scans"):
        compare_regressions({"a": table, "other": other}, "a")
    with pytest.raises(ValueError, match="labels_per"):
        compare_regressions({"a": table, "scans": table.assign(case=table["image"])}, "a")


def test_the_summary_tells_the_model_from_the_mean_of_the_training_patients():
    table = draw_numbers(num_repeats=3, luck=0.3)
    splits, cohort = as_tables(table)
    constant = mean_predictor(table, splits, cohort)
    trained = table[(table["repeat"] == 0) & (table["fold"] != 2)]["target"].mean()
    rows = constant[(constant["repeat"] == 0) & (constant["fold"] == 2)]
    np.testing.assert_allclose(rows["predicted"], trained)
    metrics = summarise_regression(table, splits, cohort)
    assert "predicts better than the mean of the training patients" in number_verdict(metrics)
    nothing = summarise_regression(
        table.assign(predicted=np.random.default_rng(0).permutation(table["predicted"])),
        splits,
        cohort,
    )
    assert "better" not in number_verdict(nothing)
    assert metrics["num_cases"] == 60
    assert metrics["spread"]["mae_agreeing"] > 0
    assert summarise_regression(table[table["repeat"] == 0], splits, cohort)["spread"] is None


def test_the_bias_line_says_which_targets_are_predicted_too_large():
    table = draw_numbers(noise=0.1)
    table["predicted"] = 10 + 0.5 * (table["predicted"] - 10)
    metrics = summarise_regression(table, *as_tables(table))
    assert metrics["bias_line"]["slope"] == pytest.approx(-0.5, abs=0.03)
    words = bias_sentence(metrics)
    assert "the error depends on the target" in words
    assert words.index("too large by") < words.index("too small by")
    assert [unit_number(x) for x in (0.805, -7.4, 33, 123.4, 1351.7)] == [
        *("0.805", "−7.40", "33.0", "123", "1352")
    ]


def test_grades_are_rounded_and_numbers_are_not():
    table = draw_numbers(num_patients=80, noise=0.6)
    assert rounded_grades(table) is None
    table["target"] = np.arange(80) % 4
    table["predicted"] = table["target"] + np.random.default_rng(0).normal(0, 0.6, 80)
    rounded = table["predicted"].round().clip(0, 3).astype(int)
    assert rounded_grades(table) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(table["target"], rounded),
            "within_one": (rounded - table["target"]).abs().le(1).mean(),
            "kappa": sk.cohen_kappa_score(table["target"], rounded, weights="quadratic"),
        }
    )


def test_verification_names_rows_of_numbers_that_are_wrong():
    table = draw_numbers(num_patients=10)
    splits, cohort = as_tables(table)
    assert table_faults(RunTables(table, None, splits, cohort)) == []
    wrong = table.copy()
    wrong.loc[0, "predicted"] = np.nan
    wrong.loc[1, "target"] += 1
    faults = table_faults(RunTables(wrong[:-1], None, splits, cohort))
    assert [words.rpartition(": ")[2] for words in faults] == [
        "predicted is no number",
        "its target is another in cohort.csv",
        "it is in this test part of splits.csv, but not predicted",
    ]
