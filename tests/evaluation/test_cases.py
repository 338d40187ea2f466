"""A case is a patient where labels are; every figure is of the same cases and the same score."""

import numpy as np
import pandas as pd
import pytest
from predictions import as_predictions, as_run, draw_predictions
from sklearn import metrics as sk

from evaluation.calibration import calibrate, fit_calibration, held_out
from evaluation.comparison import compare_runs, hard_vote, soft_vote
from evaluation.metrics import NAMES, classification_metrics, running_mean, summarise
from evaluation.predictions import (
    as_cases,
    per_scan,
    prediction_table,
    probs_of,
    ranking_table,
    with_decision,
)
from evaluation.sanity import sanity_row
from evaluation.subgroups import subgroup_rows
from evaluation.summary import summarise_run
from evaluation.verification import figure_faults

PROBS = ["prob_healthy", "prob_unhealthy"]


def one_large_patient_and_ten_small():
    """One patient with 90 scans that are right, ten with one scan each of which half are."""
    patients = ["large"] * 90 + [f"p{n}" for n in range(10)]
    true = np.array([1] * 90 + [0, 1] * 5)
    right = np.array([True] * 90 + [True, True, False, False] * 2 + [True, False])
    table = as_predictions(
        np.where(np.eye(2)[np.where(right, true, 1 - true)] > 0, 1.0, -1.0), true
    )
    return table.assign(patient_id=patients, image=[f"{n:03d}.nii" for n in range(100)])


def draw_visits(num_patients=30, num_repeats=2, seed=0):
    """Patients of one label each with one to four scans, an output per class as a network gives."""
    generator = np.random.default_rng(seed)
    visits = np.arange(num_patients) % 4 + 1
    patient = np.arange(num_patients).repeat(visits)
    true = patient // 4 % 2
    own = generator.normal(size=(num_patients, 2))[patient]
    tables = []
    for repeat in range(num_repeats):
        logits = own + generator.normal(size=(len(true), 2)) + 0.8 * np.eye(2)[true]
        table = as_predictions(logits, true, repeat=repeat)
        table[PROBS] = 1 / (1 + np.exp(-logits))
        tables.append(with_decision(table).assign(patient_id=[f"p{n:02d}" for n in patient]))
    return pd.concat(tables, ignore_index=True).assign(
        fold=lambda t: t["patient_id"].str[1:].astype(int) % 5
    )


def by_hand(table):
    """Patients' mean shares, by a loop."""
    rows = []
    for (repeat, patient), scans in table.groupby(["repeat", "patient_id"]):
        shares = scans[PROBS].to_numpy() / scans[PROBS].sum(axis=1).to_numpy()[:, None]
        healthy, unhealthy = shares.mean(axis=0)
        rows.append((repeat, patient, scans["label"].iloc[0], healthy, unhealthy))
    return pd.DataFrame(rows, columns=["repeat", "patient_id", "label", *PROBS])


def test_a_patient_with_ninety_scans_counts_once():
    metrics = summarise_run(as_run(one_large_patient_and_ten_small()))
    assert metrics["mean"]["accuracy"] == pytest.approx(6 / 11)
    assert metrics["per_scan"]["mean"]["accuracy"] == pytest.approx(0.95)
    assert (metrics["case"], metrics["num_cases"]) == ("patient", 11)
    assert (metrics["num_patients"], metrics["num_scans"]) == (11, 100)
    low, high = metrics["closed_interval_95"]["accuracy"]["wilson"]
    assert low < 6 / 11 < high < 0.9


def test_patients_figures_equal_scikit_learns_on_mean_shares():
    table = draw_visits()
    expected = []
    for _, rows in by_hand(table).groupby("repeat"):
        true, prob = rows["label"] == "unhealthy", rows["prob_unhealthy"]
        expected.append(
            {
                "accuracy": sk.accuracy_score(true, prob > 0.5),
                "balanced_accuracy": sk.balanced_accuracy_score(true, prob > 0.5),
                "auroc": sk.roc_auc_score(true, prob),
                "auprc": sk.average_precision_score(true, prob),
                "brier": sk.brier_score_loss(true, prob),
            }
        )
    mean = summarise(table)["mean"]
    expected = pd.DataFrame(expected).mean().to_dict()
    assert {name: mean[name] for name in expected} == pytest.approx(expected)
    running = running_mean(table)
    assert {name: running[name] for name in expected} == pytest.approx(expected)


def test_scan_figures_stand_next_to_them():
    table = draw_visits()
    summary = summarise(table)
    by_scan = [sk.accuracy_score(t["label"], t["predicted"]) for _, t in table.groupby("repeat")]
    assert summary["per_scan"]["mean"]["accuracy"] == pytest.approx(np.mean(by_scan))
    assert set(summary["per_scan"]["mean"]) == set(NAMES)
    assert summarise(table[~table.duplicated(["repeat", "patient_id"])])["per_scan"] is None


def test_scans_are_the_cases_where_they_may_differ_in_their_labels():
    different = draw_predictions()
    assert summarise(different)["case"] == "scan"
    assert summarise(different)["per_scan"] is None
    pd.testing.assert_frame_equal(as_cases(different), different)


class _Scan:
    def __init__(self, number):
        self.patient_id, self.image, self.label = "only", f"{number}.nii", "a"


def test_labels_per_scan_holds_where_each_patient_happens_to_have_one_label():
    scans, probs = [_Scan(n) for n in range(3)], [[0.9, 0.1], [0.2, 0.8], [0.9, 0.3]]
    tables = {
        per: prediction_table(scans, probs, ["a", "b"], repeat=0, fold=0, labels_per=per)
        for per in ("patient", "scan")
    }
    assert len(as_cases(tables["patient"])) == 1
    assert len(as_cases(tables["scan"])) == 3
    assert classification_metrics(tables["scan"])["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="labels_per"):
        compare_runs(tables, "scan")


@pytest.mark.slow
def test_everything_measured_is_of_the_same_cases():
    table, one = draw_visits(num_repeats=1, seed=1), draw_visits(num_repeats=1, seed=2)
    two = draw_visits(num_repeats=1, seed=4).assign(fold=lambda rows: (rows["fold"] + 1) % 5)
    validation = pd.concat([one, two])  # each patient validates two folds of a repeat
    metrics = summarise_run(as_run(table, validation))
    by_patient = as_run(as_cases(table), pd.concat([as_cases(one), as_cases(two)]))
    alone = summarise_run(by_patient)
    own = ("num_scans", "per_scan")
    faults = list(figure_faults(metrics, alone))
    assert {line.split()[1].partition(".")[0] for line in faults} == set(own)
    pd.testing.assert_frame_equal(
        calibrate(table, held_out(table, validation)),
        calibrate(as_cases(table), held_out(as_cases(table), validation)),
    )
    assert fit_calibration(one) == fit_calibration(as_cases(one))
    pd.testing.assert_frame_equal(
        compare_runs({"a": one, "b": two.assign(fold=one["fold"])}, "a"),
        compare_runs({"a": as_cases(one), "b": as_cases(two.assign(fold=one["fold"]))}, "a"),
    )
    assert sanity_row("?", table, "!") == sanity_row("?", as_cases(table), "!")


def test_the_ranking_has_one_row_per_patient_and_its_number_of_scans():
    table = draw_visits()
    ranking = ranking_table(table)
    mean = by_hand(table).groupby("patient_id")[PROBS].mean()
    found = ranking.set_index("patient_id")
    assert sorted(found.index) == sorted(mean.index)
    np.testing.assert_allclose(found.loc[mean.index, PROBS], mean)
    assert found["num_scans"].sum() == table[["patient_id", "image"]].drop_duplicates().shape[0]
    assert ranking["confidence"].is_monotonic_increasing
    single = ranking_table(draw_predictions(20))
    assert (single["num_scans"] == 1).all()


def test_the_order_of_the_rows_does_not_matter():
    table = draw_visits()
    shuffled = table.sample(frac=1, random_state=0)
    assert summarise(shuffled)["mean"] == pytest.approx(summarise(table)["mean"])
    pd.testing.assert_frame_equal(ranking_table(shuffled), ranking_table(table))


def test_a_hard_vote_is_of_patients_and_a_soft_vote_of_means():
    members = {name: draw_visits(seed=seed) for seed, name in enumerate("abc")}
    decided = [by_hand(table)["prob_unhealthy"] > 0.5 for table in members.values()]
    share = np.mean(decided, axis=0)
    hard = by_hand(hard_vote(members))
    np.testing.assert_allclose(hard["prob_unhealthy"], share)
    mean = np.mean([by_hand(table)["prob_unhealthy"] for table in members.values()], axis=0)
    np.testing.assert_allclose(by_hand(soft_vote(members))["prob_unhealthy"], mean)


def test_a_group_is_measured_by_its_patients():
    table = draw_visits(num_patients=80, num_repeats=1)
    scans = table[["patient_id", "image"]].copy()
    scans["site"] = np.where(table["patient_id"].str[-1].astype(int) < 5, "north", "south")
    rows = subgroup_rows(table, scans).set_index("group")
    for site, part in table.groupby(scans["site"]):
        patients = by_hand(part)
        expected = sk.roc_auc_score(patients["label"] == "unhealthy", patients["prob_unhealthy"])
        assert rows.loc[site, "auroc"] == pytest.approx(expected)
        assert rows.loc[site, "num_scans"] == len(part)


def test_decision_auroc_brier_and_confidence_use_one_score():
    table = per_scan(draw_visits(num_patients=60, num_repeats=1))
    score = (table["prob_unhealthy"] / table[PROBS].sum(axis=1)).to_numpy()
    true = table["label"] == "unhealthy"
    figures = classification_metrics(table)
    assert figures["auroc"] == pytest.approx(sk.roc_auc_score(true, score))
    assert figures["auroc"] != pytest.approx(sk.roc_auc_score(true, table["prob_unhealthy"]))
    assert figures["brier"] == pytest.approx(sk.brier_score_loss(true, score))
    assert ((table["predicted"] == "unhealthy") == (score > 0.5)).all()
    np.testing.assert_allclose(table["confidence"], np.abs(2 * score - 1))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_scores_add_up_to_one_and_keep_the_decision(num_classes):
    outputs = np.random.default_rng(0).random((50, num_classes))
    outputs[0] = 0  # says nothing
    names = [f"prob_{k}" for k in range(num_classes)]
    shares = probs_of(pd.DataFrame(outputs, columns=names))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares.argmax(axis=1) == outputs.argmax(axis=1)).all()
    np.testing.assert_allclose(shares[0], 1 / num_classes)
