import numpy as np
import pandas as pd
import pytest
from jaxtyping import TypeCheckError
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import mutual_info_score, roc_auc_score

from evaluation.confidence import confidence_summary
from evaluation.doubt import doubt_of, errors_found
from evaluation.predictions import with_decision
from evaluation.report.markdown import measures_table
from evaluation.report.sentences import confidence_sentences
from evaluation.summary import RunTables, summarise_run


def test_annotated_shapes_and_types_are_checked_in_tests():
    with pytest.raises(TypeCheckError, match="samples cases classes"):
        doubt_of(np.full((2, 2), 0.5))


def test_entropy_is_scipys_and_mutual_information_that_of_class_and_model():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(1000, rng.dirichlet([1, 1, 1], (4, 5)))  # models, cases, classes
    probs = counts / 1000
    found = doubt_of(probs)
    np.testing.assert_allclose(found["entropy"], scipy_entropy(probs.mean(0), axis=-1))
    expected = [mutual_info_score(None, None, contingency=case) for case in counts.swapaxes(0, 1)]
    np.testing.assert_allclose(found["mutual_information"], expected)
    sure = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert doubt_of(sure)["mutual_information"] == pytest.approx(np.log(2))
    assert doubt_of(np.full((3, 1, 2), 0.5))["mutual_information"] == pytest.approx(0)


def _cross_validation(num_patients=60, num_repeats=3, seed=1):
    rng = np.random.default_rng(seed)
    parts = []
    for repeat in range(num_repeats):
        label = np.arange(num_patients) % 2
        ill = np.clip(0.3 + 0.4 * label + rng.normal(0, 0.4, num_patients), 0.01, 0.99)
        table = pd.DataFrame({"patient_id": [f"p{n}" for n in range(num_patients)]})
        table = table.assign(image="x", repeat=repeat, fold=np.arange(num_patients) % 5)
        table["label"] = np.where(label, "ill", "well")
        parts.append(table.assign(prob_ill=ill, prob_well=1 - ill))
    return with_decision(pd.concat(parts, ignore_index=True))


def test_the_auroc_of_doubt_for_errors_is_scikit_learns_and_its_interval_holds_it():
    table = _cross_validation()
    by_case = table.groupby("patient_id")[["prob_ill", "prob_well"]]
    mean = by_case.mean()
    truth = table.groupby("patient_id")["label"].first()
    wrong = mean.idxmax(axis=1).str.removeprefix("prob_") != truth
    total = scipy_entropy(mean, axis=1)
    each = table.assign(each=scipy_entropy(table[["prob_ill", "prob_well"]], axis=1))
    mutual = total - each.groupby("patient_id")["each"].mean()
    found = errors_found(table)
    assert found["num_errors"] == wrong.sum() > 3
    for name, score in (("entropy", total), ("mutual_information", mutual)):
        assert found[name]["auroc"] == pytest.approx(roc_auc_score(wrong, score))
        low, high = found[name]["interval_95"]
        assert 0 < low < found[name]["auroc"] < high < 1
    assert errors_found(table[table["repeat"] == 0])["mutual_information"] is None


def test_the_report_says_in_a_sentence_and_a_row_whether_doubt_finds_the_errors():
    table = _cross_validation()
    splits = table[["repeat", "fold", "patient_id"]].assign(part="test")
    cohort = table.query("repeat == 0")[["patient_id", "image", "label"]].assign(file_hash="")
    metrics = summarise_run(RunTables(table, None, splits, cohort))
    auroc = f"{errors_found(table)['entropy']['auroc']:.3f}"
    assert f"| AUROC of doubt for errors | {auroc} |" in measures_table(metrics)
    (sentence,) = [words for words in confidence_sentences(metrics) if "Doubt" in words]
    assert f"finds the {errors_found(table)['num_errors']} errors" in sentence
    assert auroc in sentence
    del metrics["confidence"]["errors_found"]  # a run of before
    assert "doubt" not in measures_table(metrics) + " ".join(confidence_sentences(metrics))
    perfect = table.assign(label=table.groupby("patient_id")["prob_ill"].transform("mean"))
    perfect["label"] = np.where(perfect["label"] > 0.5, "ill", "well")
    found = confidence_summary(perfect)["errors_found"]
    assert (found["num_errors"], np.isnan(found["entropy"]["auroc"])) == (0, True)
