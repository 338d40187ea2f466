import nibabel as nib
import numpy as np
import pytest

from datamodules.importing.synthetic import synthetic_brain, write_synthetic_cohort
from datamodules.reading.cohort_table import read_cohort_table


def test_a_synthetic_cohort_is_a_cohort_table_with_both_classes(tmp_path):
    scans = read_cohort_table(write_synthetic_cohort(tmp_path, "target", 4, labelled=True))
    assert [scan.label for scan in scans] == ["healthy", "unhealthy"] * 2
    images = [nib.load(scan.path) for scan in scans]
    assert len({image.shape for image in images}) > 1
    assert len({image.header.get_zooms() for image in images}) == 4
    assert all(image.header.get_xyzt_units()[0] == "mm" for image in images)


def test_a_source_cohort_has_no_labels_and_other_brains(tmp_path):
    for name in ("source", "target"):
        write_synthetic_cohort(tmp_path, name, 1, labelled=name == "target")
    source, target = (
        read_cohort_table(tmp_path / f"{name}.csv")[0] for name in ("source", "target")
    )
    assert not source.label
    assert source.patient_id != target.patient_id
    zooms = {nib.load(scan.path).header.get_zooms() for scan in (source, target)}
    assert len(zooms) == 2


@pytest.mark.slow
def test_the_seed_decides_the_brain_and_a_lesion_brightens_a_part_of_it():
    (healthy, affine), (again, _) = (
        synthetic_brain(np.random.default_rng(3), lesion=False) for _ in range(2)
    )
    np.testing.assert_array_equal(healthy, again)
    assert nib.orientations.aff2axcodes(affine)[1:] == ("A", "S")
    assert _contrast(lesion=True) > 1.2 * _contrast(lesion=False)


def _contrast(*, lesion):
    """Brightest part of the middle half of the field of view, relative to its median."""
    contrasts = []
    for seed in range(8):
        voxels, _ = synthetic_brain(np.random.default_rng(seed), lesion=lesion)
        middle = voxels[tuple(slice(size // 4, -size // 4) for size in voxels.shape)]
        contrasts.append(np.percentile(middle, 98) / np.median(middle))
    return np.mean(contrasts)


def test_small_lesions_are_small_and_in_skull_stripped_brains():
    found = {}
    for small in (False, True):
        brains = [
            synthetic_brain(np.random.default_rng(seed), lesion=lesion, small_lesion=small)[0]
            for seed in range(4)
            for lesion in (False, True)
        ]
        found[small] = np.mean([np.mean(voxels == 0) for voxels in brains])
    assert found[True] > 0.75 > 0.1 > found[False]
