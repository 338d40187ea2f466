"""What should not work is checked, and warned of where it does."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from predictions import draw_predictions

import main
from evaluation.sanity import sanity_row, shuffled_labels


@pytest.fixture
def run(finished_run, tmp_path):
    """Return a copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def rows_of(run):
    return json.loads((run / "sanity.json").read_text())["checks"]


def test_a_shuffle_keeps_the_shares_and_the_patients_together():
    patients = [f"p{n // 2}" for n in range(40)]
    labels = ["a" if n // 2 % 3 else "b" for n in range(40)]
    shuffled = shuffled_labels(patients, labels, seed=0)
    assert sorted(shuffled) == sorted(labels)
    assert shuffled != labels
    assert all(shuffled[n] == shuffled[n + 1] for n in range(0, 40, 2))


def test_labels_of_scans_are_shuffled_among_scans():
    patients, labels = [f"p{n // 2}" for n in range(40)], ["a", "b"] * 20
    shuffled = shuffled_labels(patients, labels, seed=0)
    assert sorted(shuffled) == sorted(labels)
    assert any(shuffled[n] == shuffled[n + 1] for n in range(0, 40, 2))


def test_only_what_is_better_than_chance_is_a_warning():
    assert sanity_row("?", draw_predictions(signal=3.0), "Careful.")["verdict"] == "Careful."
    assert not sanity_row("?", draw_predictions(signal=0.0), "Careful.")["warning"]


@pytest.mark.slow
def test_random_labels_are_trained_on_by_the_same_pipeline(run, capsys):
    assert main.main(["sanity", f"--run={run}"]) == 0
    first, last = rows_of(run)
    assert first["question"] == "Is the label in headers, shapes and brightness?"
    assert last["question"] == "Does the pipeline learn random labels?"
    table = pd.read_csv(run / "sanity" / "random_labels.csv")
    true = pd.read_csv(run / "cohort.csv")
    assert sorted(table["label"]) == sorted(true["label"])
    assert list(table["label"]) != list(true["label"])
    shuffled = pd.read_csv(run / "sanity" / "random-labels" / "splits.csv")
    assert shuffled.equals(pd.read_csv(run / "splits.csv"))
    assert "Does the pipeline learn random labels?" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_site_that_shows_in_the_features_is_warned_of(run):
    cohort = pd.read_csv(run / "cohort.csv", dtype=str)
    cohort["site"] = np.where(cohort["label"] == "healthy", "north", "south")
    cohort.to_csv(run / "cohort.csv", index=False)
    assert main.main(["sanity", f"--run={run}", "--random_labels=false"]) == 0
    site = rows_of(run)[1]
    assert site["question"] == "Is the site in the encoder's features?"
    assert site["warning"]
    assert "may use it" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_voxel_size_that_gives_the_label_away_is_warned_of(tmp_path, write_scan):
    lines = ["patient_id,image,label"]
    for n in range(30):
        size = 1.0 + 0.5 * (n % 2)
        voxels = np.random.default_rng(n).random((8, 8, 8), dtype=np.float32)
        write_scan(f"{n}.nii.gz", voxels, affine=np.diag([size, size, size, 1]))
        assert nib.load(tmp_path / f"{n}.nii.gz").header.get_zooms()[0] == size
        lines.append(f"p{n},{n}.nii.gz,{'healthy' if n % 2 else 'unhealthy'}")
    table = tmp_path / "cohort.csv"
    table.write_text("\n".join(lines) + "\n")
    flags = [
        f"--data.table={table}",
        f"--run={tmp_path / 'classical'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        "--data.preprocessing.spatial_shape=[8,8,8]",
        "--data.splits.num_repeats=1",
        "--data.splits.num_folds=3",
        "--methods=[dummy]",
    ]
    assert main.main(["classical", "-cconfigs/finetune.yaml", *flags]) == 0
    run = tmp_path / "classical" / "dummy"
    assert main.main(["sanity", f"--run={run}"]) == 0
    (row,) = rows_of(run)
    assert row["warning"]
    assert "shortcut" in row["verdict"]
