"""Checkpoints recognise altered copies of the scans they have seen, and nobody else's."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from heads import AFFINE, head, nifti
from scipy import fft, ndimage

from datamodules.checks.leakage import sign
from datamodules.checks.likeness import DETAIL
from datamodules.checks.seen_scans import (
    NEIGHBOURS,
    NUM_FREQUENCIES,
    PERIOD,
    describe_scans,
    find_seen,
    pattern,
)
from datamodules.importing.synthetic import synthetic_brain
from datamodules.reading.nifti import read_volume
from lightning_modules.transfer import read_seen


def resampled(factor):
    voxels = ndimage.zoom(head(0).astype(np.float32), factor, order=1)
    return nifti(voxels, AFFINE @ np.diag([*np.divide(head(0).shape, voxels.shape), 1]))


def by_gamma(gamma):
    voxels = head(0).astype(np.float32)
    return nifti(((voxels - voxels.min()) / np.ptp(voxels)) ** gamma)


def reoriented(code):
    ends = (nib.orientations.axcodes2ornt(c) for c in ("RAS", code))
    return nifti(head(0)).as_reoriented(nib.orientations.ornt_transform(*ends))


ALTERED = {
    "copied": lambda: nifti(head(0)),
    "one slice cropped on the left": lambda: nifti(head(0)[1:]),
    "one slice cropped in front": lambda: nifti(head(0)[:, :-1]),
    "one slice cropped below": lambda: nifti(head(0)[:, :, 1:]),
    "two slices cropped": lambda: nifti(head(0)[:, :, 1:-1]),
    "one row padded on the right": lambda: nifti(np.pad(head(0), [(0, 1), (0, 0), (0, 0)])),
    "one row padded behind": lambda: nifti(np.pad(head(0), [(0, 0), (1, 0), (0, 0)])),
    "one row repeated": lambda: nifti(np.pad(head(0), [(0, 0), (0, 0), (0, 1)], mode="edge")),
    "gamma 0.8": lambda: by_gamma(0.8),
    "gamma 1.25": lambda: by_gamma(1.25),
    "brightened": lambda: nifti(head(0) * 1.7 + 30),
    "darker": lambda: nifti(head(0) // 4),
    "inverted": lambda: nifti(2000 - head(0)),
    "resampled finer": lambda: resampled(1.3),
    "resampled coarser": lambda: resampled(0.8),
    "noisy": lambda: nifti(head(0) + np.random.default_rng(1).normal(0, 40, head(0).shape)),
    "flipped": lambda: nifti(head(0)[::-1]),
    "flipped and cropped": lambda: nifti(head(0)[:, ::-1, :-1]),
    "turned without a word in the header": lambda: nifti(head(0).transpose(2, 0, 1)[:, ::-1]),
    "in LPI": lambda: reoriented("LPI"),
    "in SAR": lambda: reoriented("SAR"),
    "as uint8": lambda: nifti(head(0).astype(np.float32), dtype=np.uint8),
    "as float64": lambda: nifti(head(0).astype(np.float64)),
    "as NIfTI-2": lambda: nib.Nifti2Image(head(0), AFFINE),
}


@pytest.fixture
def signature(tmp_path):
    """Return a function that signs an image as if it was read from a file."""

    def sign_image(image):
        nib.save(image, tmp_path / "scan.nii")
        return sign(read_volume(tmp_path / "scan.nii"))

    return sign_image


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_copy_of_a_seen_scan_is_found(how, signature):
    seen = describe_scans([signature(nifti(head(seed))) for seed in range(5)])
    others = [nifti(head(7)), ALTERED[how](), nifti(head(8))]
    assert find_seen(seen, [signature(image) for image in others]) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["heads", "brains"])
def test_different_people_are_not_found(who, signature):
    def person(seed):
        if who == "heads":
            return nifti(head(seed))
        voxels, affine = synthetic_brain(np.random.default_rng(seed), lesion=seed % 2 == 1)
        return nifti(voxels, affine)

    people = [signature(person(seed)) for seed in range(45)]
    for num_seen in (5, 25):
        assert find_seen(describe_scans(people[:num_seen]), people[num_seen:]) == []
    assert find_seen(describe_scans([]), people) == []
    assert find_seen(describe_scans(people), []) == []


def test_a_pattern_is_that_of_a_fourier_transform_of_the_details():
    thumbnail = np.random.default_rng(0).integers(256, size=(20, 30, 24), dtype=np.uint8)
    picture = thumbnail / 255
    details = picture - ndimage.gaussian_filter(picture, DETAIL, mode="nearest")
    sizes = np.abs(fft.fftshift(fft.fftn(details, (PERIOD,) * 3)))
    half = slice(PERIOD // 2 - NUM_FREQUENCIES + 1, PERIOD // 2 + NUM_FREQUENCIES)
    sizes = sizes[half, half, PERIOD // 2 : PERIOD // 2 + NUM_FREQUENCIES]
    ratio = sizes / ndimage.gaussian_filter(sizes, NEIGHBOURS, mode="nearest")
    expected = ratio > np.median(ratio)
    assert (pattern(thumbnail, (2.0, 2.0, 2.0), 2.0) == expected).mean() > 0.999


def test_a_scan_takes_three_kilobytes(signature):
    seen = describe_scans([signature(nifti(head(seed))) for seed in range(3)])
    assert sum(values.nbytes for values in seen.values()) < 3 * 3100
    assert {values.shape[1:] for values in seen.values()} == {(515,), (1016,), ()}


def test_checkpoints_of_older_versions_find_the_same_voxels(signature):
    prints = describe_scans([signature(nifti(head(0)))])["fingerprints"]
    old = {"seen_patients": ["p1"], "ScanDataModule": {"scan_marks": prints}, "state_dict": {}}
    seen = read_seen(old)
    assert seen.patients == {"p1"}
    (scans,) = seen.scans
    copy, cropped = signature(nifti(head(0)[::-1])), signature(nifti(head(0)[1:]))
    assert find_seen(scans, [cropped, copy]) == [1]
    assert read_seen({"seen_patients": []}).scans == []


@pytest.fixture
def altered_copies(write_cohort, write_scan, tmp_path):
    """A cohort of twelve, and a table with altered copies of six of them under other names."""
    table = write_cohort(12)
    lines = ["patient_id,image"]
    for number, image in enumerate(pd.read_csv(table)["image"][:6]):
        voxels = np.asarray(nib.load(tmp_path / image).dataobj)
        voxels = (voxels[1:], np.pad(voxels, [(0, 0), (0, 1), (0, 0)]), voxels**0.8)[number % 3]
        write_scan(f"copies/{number}.nii.gz", voxels)
        lines.append(f"stranger{number},copies/{number}.nii.gz")
    (tmp_path / "copies.csv").write_text("\n".join(lines) + "\n")
    return table, tmp_path / "copies.csv"


@pytest.mark.slow
def test_an_encoder_that_has_seen_altered_copies_is_refused(
    altered_copies, run_verb, tmp_path, capsys
):
    table, copies = altered_copies
    assert run_verb("pretrain", copies, "pre", epochs=1) == 0
    assert run_verb("finetune", table, "fine", f"--init={tmp_path / 'pre'}", epochs=1) == 2
    error = capsys.readouterr().err
    assert "was pretrained on the very scans of" in error
    assert "p0" in error


@pytest.mark.slow
def test_what_an_encoder_has_seen_is_inherited_by_every_run_that_starts_from_it(
    altered_copies, write_cohort, run_verb, tmp_path, capsys
):
    table, copies = altered_copies
    between = write_cohort(9, name="between")
    between.write_text(between.read_text().replace("\np", "\nbetween"))
    assert run_verb("pretrain", copies, "a", epochs=1) == 0
    assert run_verb("finetune", between, "b", f"--init={tmp_path / 'a'}", epochs=1) == 0
    checkpoint = torch.load(tmp_path / "b/repeat0_fold0/best.ckpt", weights_only=True)
    assert {f"stranger{n}" for n in range(6)} < set(checkpoint["seen_patients"])
    assert [len(scans["fingerprints"]) for scans in checkpoint["seen_scans"]] == [6, 6]
    assert run_verb("finetune", table, "c", f"--init={tmp_path / 'b'}", epochs=1) == 2
    assert "on altered copies of them, under other names: p0" in capsys.readouterr().err
    named = table.read_text().replace("\np", "\nstranger")  # by name as well
    table.write_text(named.replace("stranger0", "stranger"))
    assert run_verb("finetune", table, "d", f"--init={tmp_path / 'b'}", epochs=1) == 2
    assert "patients of this fold's validation or test part: stranger" in capsys.readouterr().err
