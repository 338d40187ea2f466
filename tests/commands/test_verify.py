"""What verify finds in a run whose files were changed or lost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from predictions import as_run, draw_predictions

import main
from evaluation.verification import table_faults


@pytest.fixture
def run(finished_run, tmp_path):
    """Return a copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def faults_of(run, capsys):
    assert main.main(["verify", f"--run={run}"]) == 2
    return capsys.readouterr().err


def test_nothing_is_wrong_with_a_finished_run(run, capsys):
    assert main.main(["verify", f"--run={run}"]) == 0
    said = capsys.readouterr().out
    assert "12 of 12 images" in said
    assert "all files are those that the run wrote" in said


def test_a_changed_prediction_is_found(run, capsys):
    path = run / "predictions.csv"
    table = pd.read_csv(path, dtype=str)
    names = [name for name in table.columns if name.startswith("prob_")]
    table.loc[0, names] = table.loc[0, names[::-1]].to_numpy()
    table.to_csv(path, index=False)
    words = faults_of(run, capsys)
    assert "predictions.csv: not the file that the run wrote" in words
    assert "predicted is not the class of its highest probability" in words
    assert "metrics.json: " in words


def test_a_figure_that_does_not_follow_from_the_tables_is_named(run, capsys):
    path = run / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["mean"]["auroc"] += 0.01
    path.write_text(json.dumps(metrics))
    words = faults_of(run, capsys)
    assert "has 1 faults" in words
    assert "metrics.json: mean.auroc is" in words


def test_a_changed_image_is_found(run, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text())
    table = Path(config["data"]["init_args"]["table"])
    data = Path(shutil.copytree(table.parent, run.parent / "data"))
    config["data"]["init_args"]["table"] = str(data / table.name)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    image = data / pd.read_csv(run / "cohort.csv", dtype=str)["image"][0]
    image.write_bytes(image.read_bytes()[::-1])
    assert f"{image}: not the file of patient" in faults_of(run, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.md", "ranking.csv"])
def test_a_changed_or_missing_file_is_found(run, capsys, name):
    path = run / name
    path.write_text(path.read_text() + "It works.\n")
    assert f"{name}: not the file that the run wrote" in faults_of(run, capsys)
    path.unlink()
    assert f"{name}: is missing" in faults_of(run, capsys)


def test_a_missing_checkpoint_is_found(run, capsys):
    path = run / "repeat0_fold1" / "best.ckpt"
    path.unlink()
    words = faults_of(run, capsys)
    assert "has 1 faults" in words
    assert f"{path} is missing" in words


def test_a_patient_in_two_parts_is_found(run, capsys):
    path = run / "splits.csv"
    splits = pd.read_csv(path, dtype=str)
    tested = splits[(splits["fold"] == "0") & (splits["part"] == "test")]
    pd.concat([splits, tested[:1].assign(part="train")]).to_csv(path, index=False)
    who = tested["patient_id"].iloc[0]
    assert f"lists patient {who!r} twice in repeat 0, fold 0" in faults_of(run, capsys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(prob_healthy=t["prob_healthy"] * 0.9), "do not add up to 1"),
        (lambda t: t.assign(prob_healthy=float("nan")), "do not add up to 1"),
        (lambda t: t.assign(confidence=t["confidence"] + 0.01), "confidence is not its highest"),
        (lambda t: t.assign(label="healthy"), "its label is another in cohort.csv"),
        (lambda t: t.assign(image="other.nii"), "it is not in cohort.csv"),
        (lambda t: t.iloc[1:], "but not predicted"),
        (lambda t: t.assign(fold=(t["fold"] + 1) % 5), "but not in this test part"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "it is predicted twice"),
    ],
)
def test_a_fault_of_the_predictions_is_named_with_its_scan(change, words):
    table = draw_predictions(per_patient=1)
    sound = as_run(table)
    assert table_faults(sound) == []
    changed = pd.concat([table.drop(index=5), change(table[5:6])], ignore_index=True)
    faults = table_faults(replace(sound, predictions=changed))
    assert any(words in line for line in faults)
    assert all(line.startswith("predictions.csv: repeat 0, fold ") for line in faults)
    assert {line.partition("image ")[2].partition(":")[0] for line in faults} <= {
        "'5.nii'",
        "'other.nii'",
    }
