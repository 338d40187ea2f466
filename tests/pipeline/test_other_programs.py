"""docs/other-programs.md: features out, predictions in."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import main
from commands.bundles.ensemble import fold_model, input_batches, open_ensemble
from commands.reporting.page import open_cohort
from commands.runs.run_folder import read_config
from evaluation.predictions import read_predictions
from evaluation.regression import is_regression

PAGE = Path(__file__).parents[2] / "docs/other-programs.md"
PROBS = ["prob_healthy", "prob_unhealthy"]


@pytest.fixture
def import_table(finished_run, tmp_path, capsys):
    """Return a function that imports a table on the folds of the finished run: code, errors."""

    def run(table, *more):
        path = tmp_path / "predictions.csv"
        table.to_csv(path, index=False)
        code = main.main(
            [
                *("import_predictions", "-cconfigs/finetune.yaml", f"--predictions={path}"),
                f"--data.table={finished_run.parent / 'data/cohort.csv'}",
                f"--data.splits.path={finished_run}",
                f"--data.cache_dir={tmp_path / 'cache'}",
                "--data.preprocessing.spatial_shape=[12,12,12]",
                "--data.preprocessing.spacing_mm=[1,1,2]",
                f"--run={tmp_path / 'imported'}",
                *more,
            ]
        )
        return code, capsys.readouterr().err

    return run


@pytest.mark.slow
def test_the_example_of_the_page_becomes_a_run_that_verify_and_compare_take(
    finished_run, import_table, tmp_path, monkeypatch
):
    out = tmp_path / "features.csv"
    assert main.main(["features", f"--run={finished_run}", f"--out={out}"]) == 0
    features = pd.read_csv(out, dtype={"patient_id": str})
    assert (features["label"].isna() == (features["part"] == "test")).all()
    assert features.groupby("part").size().to_dict() == {"test": 12, "train": 24}
    ensemble, cohort = open_ensemble(finished_run), open_cohort(read_config(finished_run))
    ((volume, _),) = input_batches(cohort, np.arange(12))
    expected = fold_model(ensemble, ensemble.members[1], finished_run).features(volume)
    numbers = features.query("fold == 1").filter(like="feature_").to_numpy()
    np.testing.assert_allclose(numbers, expected, atol=1e-6)

    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(code, {})
    monkeypatch.undo()
    given = pd.read_csv(tmp_path / "predictions.csv", dtype={"patient_id": str})
    assert import_table(given)[0] == 0
    imported = tmp_path / "imported"
    made = read_predictions(imported / "predictions.csv").set_index("patient_id")
    assert not is_regression(made)
    np.testing.assert_allclose(
        made.loc[given["patient_id"], PROBS], given[PROBS].to_numpy(), atol=1e-9
    )
    figures = json.loads((imported / "metrics.json").read_text())
    right = made["prob_unhealthy"].gt(0.5).eq(made["label"] == "unhealthy").mean()
    assert figures["mean"]["accuracy"] == pytest.approx(right)
    assert "another program" in (imported / "report.html").read_text()
    assert main.main(["verify", f"--run={imported}"]) == 0
    both = f"--runs={finished_run} {imported}"
    assert main.main(["compare", both, f"--run={tmp_path / 'both'}"]) == 0


@pytest.mark.slow
def test_whatever_is_wrong_with_a_table_is_one_line_each_and_nothing_is_written(
    finished_run, import_table, tmp_path
):
    good = read_predictions(finished_run / "predictions.csv")
    good = good[["patient_id", "repeat", "fold", *PROBS]]
    bad = good.copy()
    bad.loc[0, "patient_id"] = "stranger"
    bad.loc[1, "prob_healthy"] = 1.4
    bad.loc[2, "fold"] = (bad.loc[2, "fold"] + 1) % 3
    bad = pd.concat([bad, bad.iloc[[5]]], ignore_index=True)
    code, error = import_table(bad)
    assert code == 2
    first, second = good["patient_id"].iloc[[1, 2]]
    lost, doubled = good["patient_id"].iloc[[0, 5]]
    for patient, words in (
        ("stranger", "is not in cohort.csv"),
        (first, "do not add up to 1"),
        (second, "not in this test part of splits.csv"),
        (second, "but not predicted"),
        (lost, "but not predicted"),
        (doubled, "is predicted twice"),
    ):
        assert re.search(rf"'{patient}', image .*{words}", error)
    for table, words in (
        (good.drop(columns="fold"), "no column 'fold'"),
        (good.rename(columns={PROBS[1]: "prob_ill"}), "no column 'prob_unhealthy'"),
        (good.assign(prob_ill=0.0), "'prob_ill', but the classes are healthy, unhealthy"),
        (good.assign(fold="a"), "not a whole number (12 such rows)"),
        (good.assign(prob_healthy="NA"), "is 'NA', not a number"),
        (good.assign(image="0.nii.gz"), "is not in cohort.csv"),
    ):
        code, error = import_table(table)
        assert (code, len(error.splitlines()) == 1 or "faults" in error) == (2, True)
        assert words in error
    assert not (tmp_path / "imported").exists()
