import json
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import main
from evaluation.predictions import read_predictions
from lightning_modules.classical import METHODS, ClassicalMethod, fit_method, predict_probs


def _features(num_scans=60, num_classes=2, width=200, signal=1.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(num_scans) % num_classes
    features = generator.normal(size=(num_scans, width)).astype(np.float32)
    features[:, :20] += signal * generator.normal(size=(num_classes, 20))[labels]
    return features, labels, [f"p{n // 2}" for n in range(num_scans)]


IMAGE_METHODS = [name for name, method in METHODS.items() if method.inputs == "image"]
PROBES = [name for name, method in METHODS.items() if method.inputs == "encoder"]
FOREST = ClassicalMethod(RandomForestClassifier(10), {"min_samples_leaf": [1, 3]})


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IMAGE_METHODS, *PROBES])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_method_learns_what_is_there_and_gives_one_output_per_class(name, num_classes):
    features, labels, groups = _features(90, num_classes, signal=2.0)
    train, test = np.arange(60), np.arange(60, 90)
    fitted = fit_method(METHODS[name], features[train], labels[train], groups[:60], seed=0)
    probs = predict_probs(fitted, features[test])
    assert probs.shape == (30, num_classes)
    assert ((probs >= 0) & (probs <= 1)).all()
    accuracy = (probs.argmax(axis=1) == labels[test]).mean()
    assert accuracy <= 0.5 if name == "dummy" else accuracy > 0.6


@pytest.mark.slow
def test_no_method_sees_more_of_a_test_scan_than_that_scan():
    features, labels, groups = _features()
    for method in (METHODS["svm"], FOREST):
        fitted = fit_method(method, features[:40], labels[:40], groups[:40], seed=0)
        together = predict_probs(fitted, features[40:])
        alone = np.concatenate([predict_probs(fitted, features[n : n + 1]) for n in range(40, 60)])
        np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.slow
def test_turning_the_axes_first_leaves_the_components_as_they_are():
    features, labels, groups = _features()
    method = ClassicalMethod(METHODS["svm"].estimator)
    fitted = fit_method(method, features[:40], labels[:40], groups[:40], seed=0)
    scale = StandardScaler().fit(features[:40])
    plain = PCA(0.95, whiten=True, svd_solver="full").fit(scale.transform(features[:40]))
    expected = np.abs(plain.transform(scale.transform(features[40:])))
    turned = fitted[:-1].transform(features[40:])
    components = np.abs(fitted[-1]["pca"].transform(turned))
    np.testing.assert_allclose(components, expected, atol=1e-3)


def test_a_linear_probe_is_ridge_logistic_regression_on_the_scaled_features():
    features, labels, groups = _features()
    method = ClassicalMethod(LogisticRegression(C=0.01, max_iter=1000, tol=1e-8), {}, "encoder")
    fitted = fit_method(method, features[:40], labels[:40], groups[:40], seed=0)
    scale = StandardScaler().fit(features[:40])
    plain = LogisticRegression(C=0.01, max_iter=1000, tol=1e-8)
    plain.fit(scale.transform(features[:40]), labels[:40])
    expected = plain.predict_proba(scale.transform(features[40:]))
    # the training scans span the axes that are kept: what is off them has weight 0
    np.testing.assert_allclose(predict_probs(fitted, features[40:]), expected, atol=1e-3)
    assert np.ptp(expected[:, 1]) > 0.3


@pytest.mark.slow
def test_equal_seeds_give_equal_predictions():
    features, labels, groups = _features()
    first, second, other = (
        predict_probs(
            fit_method(FOREST, features[:40], labels[:40], groups[:40], seed),
            features[40:],
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.slow
def test_classical_methods_write_runs_of_their_own_on_the_folds_of_finetune(
    write_cohort, run_verb, tmp_path, capsys
):
    table = write_cohort(12)
    source = write_cohort(8, name="source", labelled=False)
    source.write_text(source.read_text().replace("\np", "\nother"))
    assert run_verb("pretrain", source, "pre", epochs=1) == 0
    assert run_verb("finetune", table, "cnn", epochs=1) == 0
    names = "--methods=[dummy,naive-bayes,linear-probe]"
    pre = f"--init={tmp_path / 'pre'}"
    assert run_verb("classical", table, "classical", names, pre) == 0
    runs = ["dummy", "linear-probe", "naive-bayes", "naive-bayes-encoder"]
    assert len(list((tmp_path / "cache").glob("features-*"))) == 3  # once for each fold
    assert sorted(path.name for path in (tmp_path / "classical").iterdir()) == runs
    for run in runs:
        folder = tmp_path / "classical" / run
        predictions = read_predictions(folder / "predictions.csv")
        assert sorted(predictions["patient_id"]) == [f"p{n:02d}" for n in range(12)]
        same = (folder / "splits.csv").read_text() == (tmp_path / "cnn/splits.csv").read_text()
        assert same
        assert "Method: " in (folder / "report.md").read_text()
    accuracy = json.loads((tmp_path / "classical/naive-bayes/metrics.json").read_text())["mean"][
        "accuracy"
    ]
    assert accuracy > 0.8
    capsys.readouterr()
    assert run_verb("classical", table, "classical", names, pre) == 0
    assert capsys.readouterr().out.count("is finished already") == len(runs)
    names = f"{tmp_path / 'cnn'} {tmp_path / 'classical'}"
    assert main.main(["compare", f"--runs={names}", f"--run={tmp_path / 'cmp'}"]) == 0
    table = pd.read_csv(tmp_path / "cmp/comparison.csv", index_col="run")
    assert table.index.tolist() == ["cnn", *runs]


@pytest.mark.slow
def test_covariates_of_the_table_are_a_method_and_the_label_itself_is_not(
    write_cohort, run_verb, tmp_path, capsys
):
    table = write_cohort(12)
    header, *lines = table.read_text().splitlines()
    rows = [f"{line},{30 + n % 2},{n % 2},{'MF'[n % 3 == 0]}" for n, line in enumerate(lines)]
    rows[0] = rows[0].replace(",30,", ",,")  # one age is missing
    table.write_text("\n".join([f"{header},age,volume_ml,sex", *rows]) + "\n")
    assert run_verb("classical", table, "classical", "--methods=[covariates]") == 0
    told = capsys.readouterr().out
    assert "Column 'volume_ml' is the label in other words" in told
    assert "Columns of the table that nothing reads: volume_ml.\n" in told
    assert "Covariates: age, sex.\n" in told
    config = (tmp_path / "classical/covariates/config.yaml").read_text()
    assert "covariates:\n- age\n- sex\n" in config
    metrics = json.loads((tmp_path / "classical/covariates/metrics.json").read_text())
    assert metrics["mean"]["accuracy"] > 0.8  # age tells the classes apart


@pytest.mark.slow
def test_odd_cells_of_a_number_are_told_and_never_make_the_column_categories(
    write_cohort, run_verb, tmp_path, capsys
):
    table = write_cohort(12)
    header, *lines = table.read_text().replace(",", ";").splitlines()
    ages = [f"{30 + n % 2 * 20},5" for n in range(12)]
    ages[1], ages[2], ages[3], ages[4] = "89+", "n/a", "old", "> 20"
    rows = [f"{line};{age}" for line, age in zip(lines, ages, strict=True)]
    table.write_text("\n".join([f"{header};age", *rows]) + "\n")
    assert run_verb("classical", table, "classical", "--methods=[covariates]") == 0
    told = capsys.readouterr().out
    assert "Column 'age': '89+', '> 20' count as the number in them." in told
    assert "Column 'age': 'old' are no numbers: counted as missing." in told
    metrics = json.loads((tmp_path / "classical/covariates/metrics.json").read_text())
    assert metrics["mean"]["auroc"] > 0.9


@pytest.mark.slow
def test_what_classical_methods_cannot_do_is_said_in_one_line(write_cohort, run_verb, capsys):
    table = write_cohort(12)
    for arguments, words in (
        (["--methods=[oracle]"], "There is no classical method 'oracle'; choose from dummy, svm"),
        (["--features=[encoder]"], "need a pretrained run: give INIT="),
        (["--methods=[linear-probe]"], "probes need a pretrained encoder (give INIT=)"),
        (["--features=[smell]"], "no features 'smell'"),
        (["--data.covariates=[shoe]"], "has no column 'shoe'"),
        (["--fold=1"], "Drop FOLD, REPEAT"),
        (["--only=gather"], "Drop FOLD, REPEAT, only, num_tasks"),
        (["--num_tasks=2"], "Drop FOLD, REPEAT, only, num_tasks"),
    ):
        assert run_verb("classical", table, "classical", *arguments) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_method_is_added_in_one_line(monkeypatch, write_cohort, run_verb, tmp_path):
    boosting = ClassicalMethod(HistGradientBoostingClassifier(), {"learning_rate": [0.03, 0.1]})
    monkeypatch.setitem(METHODS, "boosting", boosting)
    assert run_verb("classical", write_cohort(12), "classical", "--methods=[boosting]") == 0
    assert (tmp_path / "classical/boosting/report.md").is_file()


class Recorder(LogisticRegression):
    """Remembers what it was fitted on, and what it was asked about."""

    fitted: ClassVar = []
    asked: ClassVar = []

    def fit(self, features, labels):
        self.fitted.append((features, labels))
        return super().fit(features, labels)

    def predict(self, features):
        self.asked.append(features)
        return super().predict(features)


@pytest.mark.slow
def test_smote_fills_up_training_parts_alone_with_points_between_two_of_a_class():
    features, labels, groups = _features(60, 3)
    kept = np.flatnonzero((labels != 2) | (np.arange(60) < 18))  # six of the last class
    features, labels = features[kept], labels[kept]
    method = ClassicalMethod(Recorder(max_iter=1000), {"C": [0.1, 1]}, "encoder")
    Recorder.fitted.clear(), Recorder.asked.clear()
    patients = [groups[row] for row in kept]
    fitted = fit_method(method, features, labels, patients, seed=0, smote=True)
    real = fitted[:-1].transform(features)
    assert len(Recorder.fitted) > 2  # inner folds, and all of it
    for seen, classes in Recorder.fitted:
        assert len(set(np.bincount(classes).tolist())) == 1
        is_real = np.array([np.abs(real - row).sum(1).min() < 1e-4 for row in seen])
        assert 0 < (~is_real).sum() < len(seen) / 2
        for row in seen[~is_real]:
            of_class = real[labels == 2]  # made of the rare class alone
            pairs = ((a, b - a) for a in of_class for b in of_class if (a != b).any())
            gaps = [np.linalg.norm(row - a - d * ((row - a) @ d) / (d @ d)) for a, d in pairs]
            assert min(gaps) < 1e-3
        assert (classes[~is_real] == 2).all()
    for seen in Recorder.asked:  # settings are judged on real scans
        assert all(np.abs(real - row).sum(1).min() < 1e-4 for row in seen)
    plain = fit_method(method, features, labels, patients, seed=0)
    assert type(plain[-1].estimator).__module__.startswith("sklearn")
    alone = np.arange(60) % 20 > 0
    fit_method(METHODS["svm"], features[:40], alone[:40].astype(int), patients[:40], 0, smote=True)


@pytest.mark.slow
def test_balanced_and_harmonised_methods_are_runs_of_their_own(
    write_cohort, run_verb, tmp_path, capsys
):
    table = write_cohort(16)
    header, *lines = table.read_text().splitlines()
    rows = [f"{line},{'AB'[n % 4 // 2]}" for n, line in enumerate(lines)]
    table.write_text("\n".join([f"{header},site", *rows]) + "\n")
    options = ["--methods=[dummy, svm]", "--balance=smote", "--harmonise=site"]
    assert run_verb("classical", table, "classical", *options) == 0
    assert {path.parent.name for path in (tmp_path / "classical").glob("*/metrics.json")} == {
        "dummy",
        "svm-smote-harmonised",
    }
    report = (tmp_path / "classical/svm-smote-harmonised/report.md").read_text()
    assert "Method: svm on voxels after SMOTE, harmonised by site, tuned" in report
    capsys.readouterr()
    table.write_text("\n".join([f"{header},site", rows[0][:-1], *rows[1:]]) + "\n")
    assert run_verb("classical", table, "other", "--harmonise=site") == 2
    assert "patient 'p00' has none: fill the column site" in capsys.readouterr().err
