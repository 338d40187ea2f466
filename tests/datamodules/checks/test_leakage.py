"""One scan under two patients is found in every disguise; different people are not confused."""

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
from heads import AFFINE, head, nifti
from PIL import Image
from scipy import ndimage

import main
from datamodules.checks.cohort_check import check_cohort, compare_cohorts
from datamodules.checks.cohort_problems import Expectations
from datamodules.checks.leakage import find_leaks, known_scans, shrink, sign, voxel_fingerprints
from datamodules.reading.cohort_table import Columns
from datamodules.reading.nifti import Reading, read_volume


def turned(code):
    image = nifti(head(0))
    target = nib.orientations.axcodes2ornt(code)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(AFFINE), target))


def zoomed(factor):
    voxels = ndimage.zoom(head(0).astype(np.float32), factor, order=1)
    scale = np.array(head(0).shape) / voxels.shape
    return nifti(voxels, AFFINE @ np.diag([*scale, 1]))


def rescaled_header():
    image = nifti(head(0))
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]))
    header["scl_slope"], header["scl_inter"] = 3.0, -100.0
    content[:348] = header.binaryblock
    return bytes(content)


SAME = {
    "renamed": lambda: nifti(head(0)),
    "reoriented to LPS": lambda: turned("LPS"),
    "reoriented to SAR": lambda: turned("SAR"),
    "reoriented to IRP": lambda: turned("IRP"),
    "flipped without a word in the header": lambda: nifti(head(0)[::-1]),
    "turned without a word in the header": lambda: nifti(head(0).transpose(2, 0, 1)[:, ::-1]),
    "as float64": lambda: nifti(head(0).astype(np.float64)),
    "as int32": lambda: nifti(head(0).astype(np.int32)),
    "as uint8 with a slope": lambda: nifti(head(0).astype(np.float32), dtype=np.uint8),
    "as int16 with a slope": lambda: nifti(head(0).astype(np.float32) + 0.25, dtype=np.int16),
    "big-endian": lambda: nib.Nifti1Image(head(0), AFFINE, nib.Nifti1Header(endianness=">")),
    "as NIfTI-2": lambda: nib.Nifti2Image(head(0), AFFINE),
    "with another affine": lambda: nifti(head(0), np.diag([-1.0, 3.0, 1.0, 1.0])),
    "with another slope in the header": rescaled_header,
    "with a fourth axis": lambda: nifti(head(0)[..., None]),
}
NEAR = {
    "brighter": lambda: nifti(head(0) * 1.7 + 30),
    "by another gamma": lambda: nifti((head(0) - head(0).min() + 1.0) ** 0.7),
    "clipped": lambda: nifti(np.clip(head(0), 100, np.percentile(head(0), 98))),
    "with noise": lambda: nifti(head(0) + np.random.default_rng(1).normal(0, 30, head(0).shape)),
    "resampled finer": lambda: zoomed(1.4),
    "resampled coarser": lambda: zoomed(0.8),
    "cropped": lambda: nifti(head(0)[2:-1, 1:-2, 1:-1]),
    "cropped on one side": lambda: nifti(head(0)[:, 3:]),
    "resampled, turned and brighter": lambda: zoomed(1.25).as_reoriented([[1, 1], [0, -1], [2, 1]]),
}


def write_table(folder, images, first=0):
    """Write a cohort of five people and, at the end, one image more."""
    folder.mkdir(exist_ok=True)
    lines = ["patient_id,image"]
    for number, image in enumerate(images):
        content = image if isinstance(image, bytes) else image.to_bytes()
        (folder / f"{number}.nii.gz").write_bytes(gzip.compress(content))
        lines.append(f"p{first + number},{number}.nii.gz")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def leaks_of(table):
    found = check_cohort(table, Columns(), Expectations(), table.parent / "cache")
    said = ("same voxels", "nearly the same")
    return [problem for problem in found.problems if any(words in problem.what for words in said)]


@pytest.fixture(scope="module")
def people():
    return [nifti(head(seed)) for seed in range(5)]


@pytest.mark.parametrize("disguise", SAME)
def test_identical_voxels_under_two_patients_are_an_error(disguise, people, tmp_path):
    (problem,) = leaks_of(write_table(tmp_path / "cohort", [*people, SAME[disguise]()]))
    assert problem.severity == "error"
    assert (problem.patient_id, problem.image) == ("p0", "0.nii.gz")
    assert "the same voxels as 5.nii.gz of patient p5" in problem.what


@pytest.mark.parametrize("disguise", NEAR)
def test_a_near_duplicate_is_a_warning(disguise, people, tmp_path):
    (problem,) = leaks_of(write_table(tmp_path / "cohort", [*people, NEAR[disguise]()]))
    assert problem.severity == "warning"
    assert "5.nii.gz of patient p5" in problem.what


def test_different_people_and_two_visits_of_one_are_no_leak(people, tmp_path):
    table = write_table(tmp_path / "cohort", [*people, nifti(head(0))])
    table.write_text(table.read_text().replace("p5,", "p0,"))
    assert leaks_of(table) == []


def test_a_recompressed_copy_is_found(people, tmp_path):
    table = write_table(tmp_path / "cohort", [*people, people[0]])
    copy = tmp_path / "cohort/5.nii.gz"
    copy.write_bytes(gzip.compress(gzip.decompress(copy.read_bytes()), compresslevel=1))
    assert [problem.severity for problem in leaks_of(table)] == ["error"]


def test_two_cohorts_are_compared(people, tmp_path, capsys):
    one = write_table(tmp_path / "one", people[:3])
    other = write_table(tmp_path / "other", [*people[3:], turned("LPS")], first=7)
    options = [f"--data.cache_dir={tmp_path / 'cache'}", f"--run={tmp_path / 'run'}"]
    assert main.main(["check_data", f"--a={one}", f"--b={other}", *options]) == 2
    shown = capsys.readouterr().out
    assert "p0  0.nii.gz  has the same voxels as 2.nii.gz of patient p9 in B" in shown
    (tmp_path / "other/2.nii.gz").unlink()
    other.write_text("patient_id,image\np1,0.nii.gz\np8,1.nii.gz\n")
    assert main.main(["check_data", f"--a={one}", f"--b={other}", *options]) == 0
    assert "p1  is in both cohorts" in capsys.readouterr().out


def test_comparing_cohorts_looks_at_pairs_across_alone(people, tmp_path):
    table = write_table(tmp_path / "cohort", [people[0], people[0], people[1]])
    found = check_cohort(table, Columns(), Expectations(), tmp_path / "cache")
    other = check_cohort(
        write_table(tmp_path / "b", people[2:], first=5), Columns(), Expectations(), tmp_path
    )
    assert compare_cohorts(found, other, Reading(), tmp_path) == []


def test_marks_of_seen_scans_are_found_in_any_orientation(people, tmp_path):
    images = [*people, turned("IRP"), nifti(head(9))]
    write_table(tmp_path / "cohort", images)
    signatures = [sign(read_volume(tmp_path / f"cohort/{n}.nii.gz")) for n in range(len(images))]
    assert known_scans(voxel_fingerprints(signatures[:5]), signatures[5:]) == [(0, 0)]
    assert known_scans(voxel_fingerprints([]), signatures) == []


@pytest.mark.slow
def test_an_encoder_that_has_seen_a_renamed_scan_is_refused(
    write_cohort, run_verb, tmp_path, capsys
):
    table = write_cohort(12)
    copies = tmp_path / "copies.csv"
    copies.write_text(table.read_text().replace("\np", "\nsomebody-else-"))
    assert run_verb("pretrain", copies, "pre", epochs=1) == 0
    assert run_verb("finetune", table, "fine", f"--init={tmp_path / 'pre'}", epochs=1) == 2
    error = capsys.readouterr().err
    assert "was pretrained on the very scans of" in error
    assert "p0" in error


@pytest.mark.parametrize("shape", [(3, 5, 7), (8, 8, 8), (2, 2, 2), (20, 3, 9)])
def test_blocks_are_means_of_equal_shares(shape):
    voxels = np.random.default_rng(0).normal(size=(16, 9, 12)).astype(np.float32)
    small = shrink(voxels, shape)
    assert small.shape == shape
    assert small.mean() == pytest.approx(voxels.mean(), abs=1e-5)
    np.testing.assert_allclose(shrink(voxels[::-1], shape), small[::-1], atol=1e-5)
    if shape == (8, 8, 8):
        first = np.average(voxels[:2, :2, :2], axis=(0, 1, 2), weights=_shares())
        assert small[0, 0, 0] == pytest.approx(first, abs=1e-5)


def _shares():
    """Parts of the first two voxels of 9 and of 12 that lie in the first of 8 blocks."""
    return np.einsum("i,j,k->ijk", [1, 1], [1, 1 / 8], [1, 1 / 2])


def test_many_copies_are_each_found(people, tmp_path):
    images = [people[0], people[0], people[0], people[1]]
    write_table(tmp_path / "cohort", images)
    volumes = [read_volume(tmp_path / f"cohort/{n}.nii.gz") for n in range(4)]
    leaks = find_leaks([sign(v) for v in volumes], list("abcd"), lambda n: volumes[n].voxels)
    assert {(leak.first, leak.second) for leak in leaks} == set(itertools.combinations(range(3), 2))


def test_an_altered_picture_under_another_patient_is_found(tmp_path):
    plane = [head(n)[:, :, head(n).shape[2] // 2].astype(float) for n in range(4)]
    grey = [Image.fromarray((255 * each / each.max()).astype(np.uint8)) for each in plane]
    width, height = grey[0].size
    copies = [
        grey[0].resize((2 * width, 2 * height)),
        grey[1].crop((width // 10, 0, width, height)),
        Image.fromarray(np.asarray(grey[2])[::-1, ::-1]),
    ]
    for n, picture in enumerate([*grey, *copies]):
        picture.save(tmp_path / f"{n}.png")
    volumes = [read_volume(tmp_path / f"{n}.png") for n in range(7)]
    names = [f"p{n}" for n in range(7)]
    leaks = find_leaks(list(map(sign, volumes)), names, lambda place: volumes[place].voxels)
    found = {(leak.first, leak.second): leak.kind for leak in leaks}
    assert found == {(0, 4): "near-duplicate", (1, 5): "near-duplicate", (2, 6): "identical"}
