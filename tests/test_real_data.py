"""The real cohorts of ../shared/data, where they are beside this checkout."""

import json
import math

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import main
from datamodules.cohort import Cohort
from datamodules.cohort_table import Columns, class_names, read_cohort_table, scans_by_patient
from datamodules.medmnist import write_medmnist_cohort
from datamodules.preprocessing import Preprocessing
from datamodules.splits import Splits, cells, make_splits, patients_of, read_splits

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("name", "num_scans", "num_patients"),
    [
        ("lgg_hemispheres", 140, 80),
        ("lgg_flair", 80, 80),
        ("ixi_t1", 68, 68),
        ("ixi_sex", 68, 68),
        ("hippocampus", 201, 201),
        ("ms_two_visits", 4, 2),
    ],
)
def test_every_cohort_gets_a_plan_within_its_budget(shared_data, name, num_scans, num_patients):
    table = shared_data / f"{name}.csv"
    cohort = Cohort(str(table), Columns(), Preprocessing(), "unused")
    words = cohort.plan()
    assert len(cohort.scans) == num_scans
    assert len(scans_by_patient(cohort.scans)) == num_patients
    assert 0.8 * 40_000 < math.prod(cohort.preprocessing.spatial_shape) <= 40**3
    unknown_spacing = name.startswith("lgg")
    assert (cohort.preprocessing.fit == "resize") == unknown_spacing
    assert "Planned" in words


def test_both_halves_of_a_brain_stay_on_one_side(shared_data):
    scans = read_cohort_table(shared_data / "lgg_hemispheres.csv")
    assert class_names(scans, labels_per="scan") == ["healthy", "unhealthy"]
    patients = [scan.patient_id for scan in scans]
    table = make_splits(patients, [scan.label for scan in scans], Splits(num_repeats=10))
    for repeat, fold in cells(table):
        parts = patients_of(table, repeat, fold)
        assert not parts["test"] & (parts["train"] | parts["val"])
        assert not parts["val"] & parts["train"]


@pytest.mark.parametrize("name", ["hippocampus", "ms_two_visits"])
def test_scans_of_mixed_types_come_out_alike(shared_data, tmp_path, name):
    settings = Preprocessing(voxel_budget=8_000)
    cohort = Cohort(str(shared_data / f"{name}.csv"), Columns(), settings, str(tmp_path))
    volumes = cohort.volumes
    assert np.isfinite(volumes.data).all()
    np.testing.assert_array_equal(volumes.minima, 0)
    np.testing.assert_allclose(volumes.maxima, 1, atol=1e-3)
    assert (volumes.means > 0.05).all()
    assert (volumes.means < 0.8).all()


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["true", "random"])
def test_random_labels_stay_at_chance_and_true_ones_do_not(shared_data, tmp_path, labels):
    table = pd.read_csv(shared_data / "lgg_hemispheres.csv", dtype=str)
    table["image"] = [str(shared_data / image) for image in table["image"]]
    if labels == "random":
        table["label"] = np.random.default_rng(0).permutation(table["label"])
    table.to_csv(tmp_path / "cohort.csv", index=False)
    arguments = [
        "finetune",
        "-cconfigs/finetune.yaml",
        "-cconfigs/lgg/finetune.yaml",
        f"--data.table={tmp_path / 'cohort.csv'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        f"--run={tmp_path / 'run'}",
        "--data.splits.num_repeats=1",
        "--data.augmentation.num_versions=8",
        "--data.preprocessing.spatial_shape=[16,32,12]",
        "--trainer.max_epochs=100",
    ]
    assert main.main(arguments) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    low, high = metrics["interval_95"]["auroc"]
    if labels == "random":
        assert low <= 0.5 <= high
    else:
        assert low > 0.5


@pytest.mark.slow
def test_a_classical_rival_tells_women_from_men_and_the_dummy_does_not(shared_data, tmp_path):
    arguments = [
        "rivals",
        "-cconfigs/finetune.yaml",
        f"--data.table={shared_data / 'ixi_sex.csv'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        f"--run={tmp_path / 'rivals'}",
        "--methods=[dummy,linear-svm]",
        "--data.preprocessing.voxel_budget=8000",
    ]
    assert main.main(arguments) == 0
    reference = ["--reference=dummy", f"--run={tmp_path / 'cmp'}"]
    assert main.main(["compare", f"--runs={tmp_path / 'rivals'}", *reference]) == 0
    table = pd.read_csv(tmp_path / "cmp/comparison.csv", index_col="run")
    assert table.loc["dummy", "auroc_low"] < 0.5 < table.loc["dummy", "auroc_high"]
    assert table.loc["linear-svm", "auroc_low"] > 0.6
    assert table.loc["linear-svm", "p_obuchowski_rockette_holm"] < 0.05


def test_the_official_split_of_vesselmnist_is_kept(shared_data, tmp_path):
    npz = shared_data / "medmnist3d_vessel/vesselmnist3d.npz"
    table = write_medmnist_cohort(npz, tmp_path, ["vessel", "aneurysm"])
    scans = read_cohort_table(table)
    parts = patients_of(read_splits(tmp_path), 0, 0)
    assert {part: len(who) for part, who in parts.items()} == {
        "train": 1335,
        "val": 191,
        "test": 382,
    }
    positive = {scan.patient_id for scan in scans if scan.label == "aneurysm"}
    assert [len(parts[part] & positive) for part in ("train", "val", "test")] == [150, 22, 43]
    last = nib.load(scans[-1].path)
    np.testing.assert_array_equal(last.dataobj, np.load(npz)["test_images"][-1])
