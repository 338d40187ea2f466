import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import main
from datamodules.checks.scan_check import check_scans
from datamodules.importing.medmnist import write_medmnist_cohort
from datamodules.reading.cohort_table import read_cohort_table
from datamodules.reading.nifti import Reading
from datamodules.splits import fold_runs, patients_of, read_splits
from evaluation.predictions import read_predictions

NUMBERS = {"train": 8, "val": 4, "test": 6}


def _arrays():
    generator = np.random.default_rng(0)
    arrays = {}
    for part, number in NUMBERS.items():
        labels = np.arange(number) % 2
        images = generator.integers(0, 100, (number, 12, 12, 12), dtype=np.uint8)
        images[labels == 1, 4:8, 4:8, 4:8] += 120
        arrays |= {f"{part}_images": images, f"{part}_labels": labels[:, np.newaxis]}
    return arrays


@pytest.fixture
def write_npz(tmp_path):
    """Return a function that writes a small MedMNIST file; an array given as None is left out."""

    def write(**changed):
        arrays = {name: a for name, a in (_arrays() | changed).items() if a is not None}
        np.savez(tmp_path / "tiny.npz", **arrays)
        return tmp_path / "tiny.npz"

    return write


def test_every_volume_becomes_a_scan_with_its_voxels_and_label(write_npz, tmp_path):
    arrays = _arrays()
    scans = read_cohort_table(write_medmnist_cohort(write_npz(), tmp_path / "out"))
    assert len({scan.patient_id for scan in scans}) == len(scans) == sum(NUMBERS.values())
    stored = np.stack([np.asarray(nib.load(scan.path).dataobj) for scan in scans])
    parts = [arrays[f"{part}_images"] for part in NUMBERS]
    np.testing.assert_array_equal(stored, np.concatenate(parts))
    labels = np.concatenate([arrays[f"{part}_labels"].ravel() for part in NUMBERS])
    assert [scan.label for scan in scans] == [str(label) for label in labels]
    checks = check_scans([scan.path for scan in scans], Reading(), tmp_path / "cache")
    assert all(check.facts.spacing_doubtful for check in checks)


def test_the_official_split_is_one_fold_of_one_repeat(write_npz, tmp_path):
    write_medmnist_cohort(write_npz(), tmp_path / "out")
    table = read_splits(tmp_path / "out")
    assert fold_runs(table) == [(0, 0)]
    parts = patients_of(table, 0, 0)
    assert {part: len(patients) for part, patients in parts.items()} == NUMBERS
    assert "test-0005" in parts["test"]


def test_names_stand_for_the_labels_in_their_order(write_npz, tmp_path):
    flat = _arrays()["train_labels"].ravel()
    table = write_medmnist_cohort(write_npz(train_labels=flat), tmp_path, ["vessel", "aneurysm"])
    assert [scan.label for scan in read_cohort_table(table)][:2] == ["vessel", "aneurysm"]


def test_converting_again_writes_the_same_files(write_npz, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_medmnist_cohort(write_npz(), folder)
    one, two = ({f.name: f.read_bytes() for f in d.rglob("*.*")} for d in folders)
    assert one == two


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"val_labels": None}, "has no array 'val_labels'"),
        ({"test_images": np.zeros((6, 28, 28), np.uint8)}, r"test_images has the shape \(6, 28,"),
        ({"val_images": np.zeros((4, 9, 9, 9), np.uint8)}, "alike in all parts"),
        ({"val_images": np.zeros((0, 12, 12, 12), np.uint8)}, r"has the shape \(0, 12, 12, 12\)"),
        ({"val_images": np.zeros((4, 12, 12, 12))}, "val_images is float64. Convert it to uint8"),
        ({"test_labels": np.zeros((6, 3), int)}, r"test_labels is int64 of shape \(6, 3\)"),
        ({"test_labels": np.zeros(5, int)}, "each of the 6 images"),
        ({"train_labels": np.zeros(8)}, "train_labels is float64"),
    ],
)
def test_arrays_that_are_missing_or_do_not_fit_are_named(changed, words, write_npz, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        write_medmnist_cohort(write_npz(**changed), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [["one"], ["a", "b", "c"], ["a", "a"], ["a", ""]])
def test_class_names_must_fit_the_labels(names, write_npz, tmp_path):
    with pytest.raises(ValueError, match=f"CLASSES '{','.join(names)}'"):
        write_medmnist_cohort(write_npz(), tmp_path / "out", names)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist. Check the path in NPZ="), (b"PK corrupt", "corrupt, or no .npz")],
)
def test_a_file_that_cannot_be_read_is_one_line(content, words, tmp_path, capsys):
    npz = tmp_path / "file.npz"
    if content is not None:
        npz.write_bytes(content)
    assert main.main(["convert_medmnist", f"--npz={npz}", f"--out={tmp_path / 'out'}"]) == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert len(message.splitlines()) == 1


def test_without_a_file_the_verb_says_what_to_give(capsys):
    assert main.main(["convert_medmnist", "--out=somewhere"]) == 2
    assert "NPZ=file.npz OUT=folder" in capsys.readouterr().err


@pytest.mark.slow
def test_only_the_official_test_patients_are_predicted(write_npz, run_verb, tmp_path):
    given = [f"--npz={write_npz()}", f"--out={tmp_path / 'tiny'}", "--classes=vessel,aneurysm"]
    assert main.main(["convert_medmnist", *given]) == 0
    official = tmp_path / "tiny"
    settings = [f"--data.splits.path={official}", "--data.classes=[vessel,aneurysm]"]
    assert run_verb("finetune", official / "cohort.csv", "fine", *settings, epochs=1) == 0
    run = tmp_path / "fine"
    tested = [f"test-{n:04d}" for n in range(6)]
    assert read_predictions(run / "predictions.csv")["patient_id"].tolist() == tested
    assert sorted(pd.read_csv(run / "ranking.csv")["patient_id"]) == tested
    metrics = json.loads((run / "metrics.json").read_text())
    counts = [metrics[f"num_{what}"] for what in ("patients", "scans", "repeats")]
    assert counts == [6, 6, 1]
    assert metrics["num_untested_patients"] == 12
    assert metrics["positive_class"] == "aneurysm"
    assert metrics["protocol"] == "nested"
    report = (run / "report.md").read_text()
    assert "6 scans of 6 patients, 1 repeat of 1 fold; each of them is predicted" in report
    assert "12 other patients into no test part" in report


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["nested", "paper"])
def test_an_official_split_without_validation_patients_is_optimistic_if_test_patients_validate(
    protocol, write_npz, run_verb, tmp_path
):
    table = write_medmnist_cohort(write_npz(), tmp_path / "tiny")
    splits = read_splits(tmp_path / "tiny")
    splits.replace({"part": {"val": "train"}}).to_csv(tmp_path / "two_parts.csv", index=False)
    given = f"--data.splits.path={tmp_path / 'two_parts.csv'}"
    asked = f"--data.splits.protocol={protocol}"
    assert run_verb("finetune", table, "fine", given, asked, epochs=1) == 0
    report = (tmp_path / "fine" / "report.md").read_text()
    assert ("Optimistic" in report) == (protocol == "paper")
