"""The real cohorts of ../shared/data, where they are next to this checkout."""

import json
import math

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

import main
from datamodules.checks.cohort_check import check_cohort, compare_cohorts
from datamodules.checks.cohort_problems import Expectations, class_names
from datamodules.checks.leakage import find_leaks, sign
from datamodules.checks.seen_scans import describe_scans, find_seen
from datamodules.cohort import Cohort
from datamodules.importing.medmnist import write_medmnist_cohort
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import (
    Columns,
    read_cohort_table,
)
from datamodules.reading.nifti import Reading, read_volume
from datamodules.splits import Splits, fold_runs, make_splits, patients_of, read_splits

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
def test_every_cohort_gets_a_plan_within_its_budget(
    shared_data, tmp_path, name, num_scans, num_patients
):
    table = shared_data / f"{name}.csv"
    cohort = Cohort(str(table), Columns(), Preprocessing(voxel_budget=40**3), str(tmp_path))
    words = cohort.plan()
    assert len(cohort.scans) == num_scans
    assert len(set(cohort.patients)) == num_patients
    assert 0.8 * 40_000 < math.prod(cohort.preprocessing.spatial_shape) <= 40**3
    unknown_spacing = name.startswith("lgg")
    assert (cohort.preprocessing.fit == "resize") == unknown_spacing
    assert "Planned" in words


def test_both_halves_of_a_brain_stay_on_one_side(shared_data):
    scans = read_cohort_table(shared_data / "lgg_hemispheres.csv")
    assert class_names(scans, labels_per="scan") == ["healthy", "unhealthy"]
    patients = [scan.patient_id for scan in scans]
    table = make_splits(patients, [scan.label for scan in scans], Splits(num_repeats=10))
    for repeat, fold in fold_runs(table):
        parts = patients_of(table, repeat, fold)
        assert not parts["test"] & (parts["train"] | parts["val"])
        assert not parts["val"] & parts["train"]


COHORTS = ["hippocampus", "ixi_t1", "lgg_flair", "lgg_hemispheres", "ms_two_visits"]


@pytest.fixture(scope="module")
def checked(shared_data, tmp_path_factory):
    """The five cohorts, checked once."""
    cache = tmp_path_factory.mktemp("cache")
    expected = Expectations(labels_per="scan")
    return {
        name: check_cohort(shared_data / f"{name}.csv", Columns(), expected, cache)
        for name in COHORTS
    }


@pytest.mark.slow
def test_the_check_raises_no_false_alarm(checked):
    for name, found in checked.items():
        assert found.errors == [], name
        warnings = [problem.what for problem in found.problems]
        if name == "hippocampus":  # its intensities really are on two scales
            assert len(warnings) == 1
            assert "far from the median intensity range" in warnings[0]
        else:
            assert warnings == []


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), [("ixi_t1", "ms_two_visits"), ("ixi_t1", "lgg_flair")])
def test_cohorts_of_different_people_share_nothing(checked, tmp_path, one, other):
    assert compare_cohorts(checked[one], checked[other], Reading(), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COHORTS)
def test_a_disguised_scan_is_found_among_real_ones(checked, name, tmp_path):
    found = checked[name]
    scan = next(scan for scan in found.scans if scan.patient_id == found.scans[-1].patient_id)
    image = nib.load(scan.path)
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    low, high = np.percentile(voxels, [1, 99])
    cut = tuple(slice(n // 20 + 1, -(n // 20) - 1) for n in voxels.shape)
    finer = ndimage.zoom(voxels, 0.8, order=1)
    scale = np.diag([*np.divide(voxels.shape, finer.shape), 1])
    affine = image.affine
    disguises = {
        "turned": (voxels.transpose(1, 2, 0)[:, ::-1], np.eye(4), "error"),
        "as uint8": (voxels, affine, "error"),
        "brighter": (1.5 * voxels + 20, affine, "warning"),
        "clipped": (np.clip(voxels, low, high), affine, "warning"),
        "cropped": (voxels[cut], affine, "warning"),
        "resampled": (finer, affine @ scale, "warning"),
    }
    others = [each for each in found.scans if each.patient_id != scan.patient_id][:20]
    checks = dict(zip([each.image for each in found.scans], found.checks, strict=True))
    signatures = [checks[each.image].signature for each in [scan, *others]]
    patients = [each.patient_id for each in [scan, *others]]
    for how, (changed, other_affine, severity) in disguises.items():
        copy = nib.Nifti1Image(changed, other_affine)
        copy.header.set_xyzt_units("mm")
        if how == "as uint8":
            copy.set_data_dtype(np.uint8)
        nib.save(copy, tmp_path / "copy.nii")
        volume = read_volume(tmp_path / "copy.nii")
        paths = {0: scan.path, len(signatures): tmp_path / "copy.nii"}
        leaks = find_leaks(
            [*signatures, sign(volume)],
            [*patients, "somebody else"],
            lambda position, paths=paths: read_volume(paths[position]).voxels,
        )
        assert [(leak.first, leak.second) for leak in leaks] == [(0, len(signatures))], how
        kinds = {"error": ("identical",), "warning": ("rescaled", "near-duplicate")}
        assert leaks[0].kind in kinds[severity], how


@pytest.mark.slow
@pytest.mark.parametrize("name", COHORTS)
def test_a_checkpoint_recognises_altered_copies_of_real_scans_and_nobody_else(
    checked, name, tmp_path
):
    found = checked[name]
    patients = sorted({scan.patient_id for scan in found.scans})
    sides = {patient: place % 2 for place, patient in enumerate(patients)}
    seen, others = (
        [row for row, scan in enumerate(found.scans) if sides[scan.patient_id] == side]
        for side in (0, 1)
    )
    signatures = [check.signature for check in found.checks]
    known = describe_scans([signatures[row] for row in seen])
    strangers = [signatures[row] for row in others]
    assert find_seen(known, strangers) == []
    image = nib.load(found.scans[seen[-1]].path)
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    low, high = voxels.min(), voxels.max()
    finer = ndimage.zoom(voxels, 0.8, order=1)
    scale = np.diag([*np.divide(voxels.shape, finer.shape), 1])
    altered = {
        "one slice cropped": (voxels[:, :, 1:], image.affine),
        "one row padded": (np.pad(voxels, [(0, 0), (0, 1), (0, 0)]), image.affine),
        "gamma": (((voxels - low) / (high - low)) ** 0.8, image.affine),
        "brighter": (1.5 * voxels + 20, image.affine),
        "resampled": (finer, image.affine @ scale),
        "flipped and cropped": (voxels[::-1, 1:], image.affine),
        "turned": (voxels.transpose(1, 2, 0)[:, ::-1], np.eye(4)),
    }
    for how, (changed, affine) in altered.items():
        nib.save(nib.Nifti1Image(changed, affine), tmp_path / "copy.nii")
        copy = sign(read_volume(tmp_path / "copy.nii"))
        assert find_seen(known, [*strangers, copy]) == [len(strangers)], how


@pytest.mark.slow
def test_a_checkpoint_recognises_nobody_in_a_cohort_of_other_people(checked):
    for name in COHORTS:
        known = describe_scans([check.signature for check in checked[name].checks])
        for other in COHORTS:
            if {name, other} not in ({name}, {"lgg_flair", "lgg_hemispheres"}):
                signatures = [check.signature for check in checked[other].checks]
                assert find_seen(known, signatures) == [], (name, other)


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
        "--data.labels_per=scan",
        "--data.preprocessing.fit=resize",
        f"--data.table={tmp_path / 'cohort.csv'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        f"--run={tmp_path / 'run'}",
        "--data.splits.num_repeats=1",
        "--data.splits.num_folds=3",
        "--data.augmentation.num_versions=4",
        "--data.preprocessing.spatial_shape=[16,24,12]",
        "--trainer.max_epochs=15",
    ]
    assert main.main(arguments) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    low, high = metrics["interval_95"]["auroc"]
    if labels == "random":
        assert low <= 0.5 <= high
    else:
        assert low > 0.5


@pytest.mark.slow
def test_a_classical_method_tells_women_from_men_and_the_dummy_does_not(shared_data, tmp_path):
    arguments = [
        "classical",
        "-cconfigs/finetune.yaml",
        f"--data.table={shared_data / 'ixi_sex.csv'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        f"--run={tmp_path / 'classical'}",
        "--methods=[dummy,linear-svm]",
        "--data.preprocessing.voxel_budget=8000",
        "--data.splits.num_repeats=1",
    ]
    assert main.main(arguments) == 0
    reference = ["--reference=dummy", f"--run={tmp_path / 'cmp'}"]
    assert main.main(["compare", f"--runs={tmp_path / 'classical'}", *reference]) == 0
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
