import numpy as np
import pandas as pd
import pytest
from predictions import as_predictions, draw_predictions
from scipy.stats import norm
from scipy.stats import t as student_t
from simulations import draw_trials
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from evaluation.comparison import (
    compare_runs,
    delong_p,
    delong_ps,
    hard_vote,
    holm,
    mcnemar_p,
    obuchowski_rockette_p,
    obuchowski_rockette_ps,
    repeats_as_readers,
    soft_vote,
)
from evaluation.intervals import difference_intervals, headline_intervals
from evaluation.limits import difference_variance
from evaluation.predictions import with_decision
from evaluation.uncertainty import (
    MEASURES,
    auroc_influence,
    estimates,
    influence_of,
    parts_of,
    repeats_of,
)


def _pair(num_scans=60, gain=0.0, shared=1.0, per_patient=1, seed=0):
    """Draw two runs that err alike; the true class's logit is higher by 1, and 1 + gain."""
    generator = np.random.default_rng(seed)
    true = np.arange(num_scans) // per_patient % 2
    common = shared * generator.normal(size=(num_scans // per_patient, 1)).repeat(per_patient, 0)
    tables = []
    for lead in (1.0, 1.0 + gain):
        logit = common + generator.normal(size=(num_scans, 1)) + lead * (2 * true[:, None] - 1) / 2
        tables.append(as_predictions(np.hstack([-logit, logit]), true, per_patient=per_patient))
    return tables


def test_delong_agrees_with_the_proc_package():
    # roc.test(..., method = "delong") and var(..., method = "delong") of R's pROC 1.18.0
    true = np.array([0] * 7 + [1] * 8)
    first = "10 40 35 20 80 30 50 60 45 90 70 35 55 95 65"
    second = "30 20 50 40 60 70 10 50 30 80 40 45 90 60 20"
    tables = []
    for scores in (first, second):
        score = np.array([int(number) for number in scores.split()]) / 100 - 0.5
        tables.append(as_predictions(np.stack([-score, score], axis=1), true))
    assert [estimates(table)["auroc"] for table in tables] == pytest.approx(
        [0.8303571429, 0.6339285714]
    )
    variances = [np.square(auroc_influence(table)).sum() for table in tables]
    assert variances == pytest.approx([0.0138180272, 0.0232021380], rel=1e-8)
    influence = auroc_influence(tables[0]) - auroc_influence(tables[1])
    size = 0.1964285714 / np.sqrt(np.square(influence).sum())
    assert 2 * norm.sf(size) == pytest.approx(0.2255373132, rel=1e-8)
    assert 0.2255 < delong_p(*tables) < 0.28  # Student's t with 7 and 8 patients


def test_delongs_p_of_many_patients_is_the_normal_one():
    first, second = _pair(1000, gain=0.1)
    influence = auroc_influence(first) - auroc_influence(second)
    difference = estimates(first)["auroc"] - estimates(second)["auroc"]
    expected = 2 * norm.sf(abs(difference) / np.sqrt(np.square(influence).sum()))
    assert 0.001 < expected < 0.9
    assert delong_p(first, second) == pytest.approx(expected, rel=0.05)


def test_mcnemar_agrees_with_statsmodels_where_a_patient_has_one_scan():
    for seed in range(5):
        first, second = _pair(40, gain=1.0, seed=seed)
        right = [(table["label"] == table["predicted"]).to_numpy() for table in (first, second)]
        counts = pd.crosstab(*[pd.Categorical(one, [True, False]) for one in right], dropna=False)
        expected = mcnemar(counts.to_numpy(), exact=True).pvalue
        assert mcnemar_p(first, second) == pytest.approx(expected)


def test_mcnemar_of_clustered_scans_agrees_with_flipping_the_signs_at_random():
    first, second = _pair(40, gain=1.5, per_patient=4)
    lead = sum(
        sign * (table["label"] == table["predicted"]).groupby(table["patient_id"]).sum()
        for sign, table in ((1, first), (-1, second))
    ).to_numpy()
    signs = np.random.default_rng(0).choice([-1, 1], size=(200_000, len(lead)))
    expected = (abs(signs @ lead) >= abs(lead.sum())).mean()
    assert 0.01 < mcnemar_p(first, second) < 0.9
    assert mcnemar_p(first, second) == pytest.approx(expected, abs=0.005)


@pytest.mark.slow
def test_identical_predictions_differ_by_exactly_nothing():
    table = draw_predictions(num_repeats=2)
    row = compare_runs({"a": table, "b": table.sample(frac=1, random_state=0)}, "a").loc["b"]
    assert (row.filter(like="_diff") == 0).all()
    assert (row.filter(like="p_") == 1).all()


def test_a_perfect_and_an_inverted_run_differ_beyond_doubt():
    true = np.arange(40) % 2
    logits = (2 * true[:, None] - 1) * np.array([[-1.0, 1.0]])
    assert delong_p(as_predictions(logits, true), as_predictions(-logits, true)) == 0
    assert mcnemar_p(as_predictions(logits, true), as_predictions(-logits, true)) < 1e-9


@pytest.mark.slow
def test_holm_multiplies_the_smallest_p_by_the_number_of_runs():
    runs = dict(zip("abcd", (_pair(60, gain=g, seed=1)[1] for g in (0, 2, 0.5, 0.1)), strict=True))
    table = compare_runs(runs, "a")
    for test in ("p_mcnemar", "p_delong", "p_obuchowski_rockette"):
        assert table[f"{test}_holm"].min() == pytest.approx(min(1, 3 * table[test].min()))
        assert (table[f"{test}_holm"].dropna() >= table[test].dropna()).all()
    assert np.isnan(table.loc["a", "p_delong"])


def test_runs_of_other_scans_folds_labels_or_classes_are_refused():
    table = draw_predictions()
    others = {
        "the same scans": table.iloc[1:],
        "the same folds": table.assign(fold=(table["fold"] + 1) % 5),
        "label 'healthy'": table.assign(label="healthy"),
        "the classes": table.rename(columns={"prob_healthy": "prob_well"}),
    }
    for words, other in others.items():
        with pytest.raises(ValueError, match=words):
            compare_runs({"a": table, "b": other}, "a")


def test_the_interval_shrinks_with_patients_and_ignores_copies_of_rows():
    widths = []
    for num_scans in (40, 400):
        table = draw_predictions(num_scans, num_repeats=2)
        low, high = headline_intervals(table)["auroc"]
        assert low < estimates(table)["auroc"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    copies = pd.concat([table.assign(image=table["image"] + str(n)) for n in range(5)])
    assert headline_intervals(copies)["auroc"] == pytest.approx((low, high))


@pytest.mark.slow
@pytest.mark.parametrize(("per_patient", "num_classes"), [(1, 2), (3, 2), (1, 3)])
def test_the_influence_of_a_patient_is_what_leaving_it_out_changes(per_patient, num_classes):
    table = draw_predictions(48, num_classes, num_repeats=2, per_patient=per_patient)
    patients, whole = sorted(table["patient_id"].unique()), estimates(table)
    without = [estimates(table[table["patient_id"] != patient]) for patient in patients]
    found = parts_of(repeats_of(table))
    for name in MEASURES if num_classes == 2 else MEASURES[:4]:
        moved = [whole[name] - figures[name] for figures in without]
        terms = 1 if name == "auroc" else len(found[name])
        influence = influence_of(found[name])[0] / terms
        np.testing.assert_allclose(influence, moved, atol=0.12 * np.abs(moved).max())


def test_swapping_two_runs_changes_the_sign_of_every_difference():
    first, second = _pair(60, gain=0.5, per_patient=2)
    there, back = difference_intervals(first, second), difference_intervals(second, first)
    for name in MEASURES:
        assert there[name] == pytest.approx([-edge for edge in back[name][::-1]])


def test_the_class_with_few_patients_decides_the_degrees_of_freedom():
    degrees = []
    for sizes in ((5, 200), (100, 105)):
        models = draw_trials(sizes, (0.8, 0.7), num_trials=1)
        parts = [parts_of(repeats) for repeats, _ in models]
        degrees.append(difference_variance(*parts, "auroc")[1].item())
    assert degrees[0] < 30
    assert degrees[1] > 150


def _lucky_pair(seed, num_repeats=5, luck=0.5):
    """Draw two equal runs whose trainings differ in how well they turned out."""
    generator = np.random.default_rng(seed)
    true = np.arange(120) % 2
    common = generator.normal(size=120)
    runs = []
    for _ in range(2):
        repeats = []
        for repeat in range(num_repeats):
            lead = 1.5 + luck * generator.normal()
            logit = common + generator.normal(size=120) + lead * (2 * true - 1) / 2
            repeats.append(as_predictions(np.stack([-logit, logit], axis=1), true, repeat))
        runs.append(pd.concat(repeats, ignore_index=True))
    return runs


def test_obuchowski_rockette_equals_its_analysis_of_variance():
    runs = _lucky_pair(3)
    areas = np.array(
        [[estimates(rows)["auroc"] for _, rows in run.groupby("repeat")] for run in runs]
    )  # (modality, reader)
    residual = areas - areas.mean(0) - areas.mean(1, keepdims=True) + areas.mean()
    mean_square = np.square(residual).sum() / 4  # (t − 1)(r − 1)
    influence = [auroc_influence(run) for run in runs]
    pairs = [(r, s) for r in range(5) for s in range(5) if r != s]
    cov2 = np.mean([one[r] @ one[s] for one in influence for r, s in pairs])
    cov3 = np.mean([influence[0][r] @ influence[1][s] for r, s in pairs])
    parts = [parts_of(repeats_of(run)) for run in runs]
    variance, known = (found.item() for found in difference_variance(*parts, "auroc"))
    plain = np.square((influence[0] - influence[1]).mean(axis=0)).sum()
    patients = max(5 * (cov2 - cov3), 0) * variance / plain  # classes lend each other patients
    error = mean_square + patients
    statistic = (areas[0].mean() - areas[1].mean()) / np.sqrt(2 / 5 * error)
    degrees = error**2 / (mean_square**2 / 4 + patients**2 / known)
    expected = 2 * student_t.sf(abs(statistic), degrees)
    assert 0.01 < expected < 0.99
    assert obuchowski_rockette_p(*runs) == pytest.approx(expected)
    once = [run[run["repeat"] == 0] for run in runs]
    assert obuchowski_rockette_p(*once) == delong_p(*once)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 7])
def test_holms_correction_is_that_of_statsmodels(number):
    p_values = np.random.default_rng(number).integers(0, 8, number) / 10
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_repeats_that_agree_by_luck_do_not_hide_what_the_patients_leave_open():
    influence = np.zeros((2, 1, 4))
    influence[:, 0, :2] = [[0.1, -0.1], [-0.1, 0.1]]  # covariance of the repeats below 0
    influence[:, 0, 2:] = 0.05
    known = np.array([0.005]), np.array([3.0])
    alike = repeats_as_readers(np.array([[0.1], [0.1001]]), influence, *known)
    assert alike == pytest.approx(2 * student_t.sf(0.10005 / np.sqrt(0.005), 3))


@pytest.mark.slow
def test_only_obuchowski_rockette_keeps_its_level_when_trainings_are_lucky():
    runs = [_lucky_pair(seed) for seed in range(60)]
    assert np.mean([delong_p(*pair) < 0.05 for pair in runs]) > 0.12
    assert np.mean([obuchowski_rockette_p(*pair) < 0.05 for pair in runs]) < 0.13


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 45), (25, 25), (80, 80)])
def test_tests_of_equal_aurocs_keep_their_level_with_few_patients(sizes):
    for num_repeats, per_patient in ((1, 1), (5, 1), (1, 3)):
        models = [
            repeats for repeats, _ in draw_trials(sizes, (0.8, 0.8), 1500, num_repeats, per_patient)
        ]
        for test in (delong_ps, obuchowski_rockette_ps):
            rejected = (test(*models) < 0.05).mean()
            assert rejected <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)
            if min(sizes) > 50:
                assert rejected >= 0.03


@pytest.mark.slow
@pytest.mark.parametrize("per_patient", [1, 4])
def test_mcnemars_test_rejects_no_more_often_than_it_says(per_patient):
    pairs = [_pair(160, per_patient=per_patient, seed=seed) for seed in range(400)]
    assert np.mean([mcnemar_p(*pair) < 0.05 for pair in pairs]) <= 0.065  # exact


def test_votes_average_shares_or_count_heads():
    sure = with_decision(
        pd.DataFrame(
            {
                "patient_id": ["p"],
                "image": ["i"],
                "repeat": 0,
                "fold": 0,
                "label": ["b"],
                "prob_a": [0.1],
                "prob_b": [0.9],
            }
        )
    )
    doubtful = with_decision(sure.assign(prob_a=0.9, prob_b=0.6))
    members = {"sure": sure, "doubtful": doubtful, "again": doubtful}
    soft, hard = soft_vote(members), hard_vote(members)
    assert soft["prob_b"].item() == pytest.approx((0.9 + 0.4 + 0.4) / 3)
    assert soft["predicted"].item() == "b"
    assert hard["prob_b"].item() == pytest.approx(1 / 3)
    assert hard["predicted"].item() == "a"
