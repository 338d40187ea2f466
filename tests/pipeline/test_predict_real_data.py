"""New scans with another orientation and spacing than those that a network was trained on."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import main
from datamodules.reading.cohort_table import read_cohort_table
from evaluation.predictions import read_predictions

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def predictions(shared_data, tmp_path_factory):
    """A run on T1 scans with voxels of 2 mm predicts raw scans and copies that say the same."""
    folder = tmp_path_factory.mktemp("ms")
    table = pd.read_csv(shared_data / "ixi_sex.csv", dtype=str).iloc[:32]
    table["image"] = [str(shared_data / image) for image in table["image"]]
    table.iloc[:24].to_csv(folder / "train.csv", index=False)
    rows = [(row.patient_id, row.image, "like") for row in table.iloc[24:].itertuples()]
    for number, scan in enumerate(read_cohort_table(shared_data / "ms_two_visits.csv")):
        image = nib.load(scan.path)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        copies = {"original": image}
        for code in ("RAS", "PIR", "SLA"):
            axes = nib.orientations.axcodes2ornt(code)
            turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), axes)
            copies[code] = image.as_reoriented(turn)
        voxels = np.asarray(image.dataobj)
        copies["float64"] = nib.Nifti1Image(voxels.astype(np.float64), image.affine)
        for name, copy in copies.items():
            nib.save(copy, folder / f"{number}_{name}.nii")
            rows.append((scan.patient_id, f"{number}_{name}.nii", name))
    new = pd.DataFrame(rows, columns=["patient_id", "image", "copy"])
    new.to_csv(folder / "new.csv", index=False)
    flags = [f"--data.table={folder / 'train.csv'}", f"--run={folder / 'run'}"]
    flags += [f"--data.cache_dir={folder / 'cache'}", "--data.preprocessing.voxel_budget=6000"]
    flags += ["--data.augmentation.mode=none", "--data.splits.num_folds=3"]
    flags += ["--data.splits.num_repeats=1", "--trainer.max_epochs=10", "--wandb=disabled"]
    assert main.main(["finetune", "-cconfigs/finetune.yaml", *flags]) == 0
    flags = [f"--run={folder / 'run'}", f"--data={folder / 'new.csv'}", f"--out={folder / 'out'}"]
    assert main.main(["predict", *flags, f"--cache_dir={folder / 'cache'}"]) == 0
    return read_predictions(folder / "out/predictions.csv").assign(copy=new["copy"])


def test_a_scan_and_its_copies_in_other_orientations_and_types_get_the_same_answer(predictions):
    probs = ["prob_female", "prob_male"]
    copies = predictions[predictions["copy"] != "like"]
    assert len(copies) == 4 * 5
    for _, scan in copies.groupby(copies["image"].str.partition("_")[0]):
        assert np.ptp(scan[probs].to_numpy(), axis=0).max() < 1e-4
    originals = predictions[predictions["copy"] == "original"]
    assert np.ptp(originals["prob_male"]) > 1e-3  # not the same answer to everything


def test_another_spacing_orientation_and_look_is_warned_of(predictions):
    like = predictions.loc[predictions["copy"] == "like", "warnings"]
    assert not like.str.contains("trained on").any()
    for row in predictions[predictions["copy"] != "like"].itertuples():
        code = row.copy if len(row.copy) == 3 else "LPS"
        assert f"orientation {code}, trained on PSR" in row.warnings
        assert "up-down voxel size 3 mm, trained on 2" in row.warnings
        assert "feature space" in row.warnings
