"""Rows of several images: contrasts on one grid, masks, and what is known next to the images."""

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import head
from scipy import ndimage
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from datamodules.checks.cohort_check import check_cohort
from datamodules.checks.cohort_problems import Expectations
from datamodules.cohort import Cohort
from datamodules.covariates import Coding, fit_coding, read_covariates
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading import one_grid
from datamodules.reading.cohort_table import Columns, read_cohort_table, read_rows
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits

CONTRASTS = ["t1", "flair"]
SETTINGS = Preprocessing(spatial_shape=(16, 16, 16), fit="resize")


def _save(path, voxels, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(voxels, np.float32), affine), path)


def _brain(patient):
    """Two contrasts of one head of its own form: the second dark where the first is bright."""
    generator = np.random.default_rng(patient)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in (22, 26, 24)), indexing="ij")
    radii = generator.uniform(0.6, 0.95, 3)[:, None, None, None]
    distance = np.sum(np.square(places / radii), axis=0)
    tissue = ndimage.gaussian_filter(generator.normal(size=distance.shape), 2.5)
    tissue = tissue / tissue.std()
    t1 = np.where(distance < 1, 900 - 500 * distance + 100 * tissue, 20)
    return t1, np.where(distance < 1, 300 + 900 * distance - 100 * tissue, 10)


@pytest.fixture
def two_contrasts(tmp_path):
    """Return a function that writes patients with two contrasts, of which some may be missing."""

    def write(num_patients=8, missing=(), other=lambda patient: patient, header="", cells=None):
        lines = [f"patient_id,image_t1,image_flair,label{header}"]
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        for patient in range(num_patients):
            names = [f"p{patient}_t1.nii.gz", f"p{patient}_flair.nii.gz"]
            _save(tmp_path / names[0], _brain(patient)[0], affine)
            _save(tmp_path / names[1], _brain(other(patient))[1], affine)
            names = ["" if (patient, n) in missing else name for n, name in enumerate(names)]
            label = ("healthy", "unhealthy")[patient % 2]
            lines.append(",".join([f"p{patient}", *names, label]) + (cells or {}).get(patient, ""))
        table = tmp_path / "cohort.csv"
        table.write_text("\n".join(lines) + "\n")
        return table

    return write


def test_each_row_has_a_path_for_each_contrast_and_none_where_a_cell_is_empty(two_contrasts):
    table = two_contrasts(3, missing={(0, 0), (2, 1)})
    scans = read_cohort_table(table, Columns(), CONTRASTS)
    names = [[path and path.name for path in scan.paths] for scan in scans]
    expected = [[None, "p0_flair.nii.gz"], ["p1_t1.nii.gz", "p1_flair.nii.gz"]]
    assert names == [*expected, ["p2_t1.nii.gz", None]]
    assert [scan.image for scan in scans] == ["p0_flair.nii.gz", "p1_t1.nii.gz", "p2_t1.nii.gz"]


def test_what_is_wrong_with_contrasts_is_told_in_one_line(two_contrasts):
    table = two_contrasts(3, missing={(1, 0), (1, 1)})
    (_, faults) = read_rows(table, Columns(), CONTRASTS)
    assert [str(fault) for fault in faults] == [
        "row 3: patient 'p1': image is empty. Name a file or drop the row."
    ]
    with pytest.raises(ValueError, match=r"set --data\.contrasts='\[t1, flair\]' for all"):
        read_rows(table)
    with pytest.raises(ValueError, match=r"no column 'image_t2'.*--data\.contrasts"):
        read_rows(table, Columns(), ["t1", "t2"])
    table.write_text(table.read_text().replace("p0_flair", "p0_t1"))
    (_, (fault, _)) = read_rows(table, Columns(), CONTRASTS)
    assert "is listed twice in this row" in fault.what


@pytest.mark.parametrize("spacing", [1.0, 3.0])
def test_another_grid_orientation_and_shift_lands_within_half_a_voxel(tmp_path, spacing):
    size = np.array([40, 44, 36])
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    affine = nib.affines.from_matvec(2 * np.eye(3), (-40, -44, -36))
    centre_mm = np.array([8.0, -6.0, 5.0])

    def blob(affine, places):
        mm = nib.affines.apply_affine(affine, places)
        return np.exp(-np.square(mm - centre_mm).sum(-1) / (2 * 6.0**2))

    _save(tmp_path / "a.nii.gz", blob(affine, places), affine)
    turned = nib.affines.from_matvec(
        np.diag([-spacing, -spacing, spacing]) @ np.eye(3)[[1, 0, 2]].T, (45, 41, -41)
    )  # along P, L and S, its corner 5 mm away
    shape = np.ceil(90 / spacing).astype(int)
    there = np.stack(np.meshgrid(*[np.arange(shape)] * 3, indexing="ij"), -1)
    _save(tmp_path / "b.nii.gz", blob(turned, there), turned)
    settings = Preprocessing(spatial_shape=(40, 44, 36), window_percentiles=None)
    volume = preprocess([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], settings).volume
    first, second = (ndimage.center_of_mass(np.clip(each - 0.3, 0, None)) for each in volume)
    assert np.abs(np.subtract(first, second)).max() < 0.5


@pytest.mark.slow
def test_a_contrast_elsewhere_is_refused_and_a_registration_finds_a_moved_one(
    tmp_path, monkeypatch
):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    _save(tmp_path / "a.nii.gz", head(1), affine)
    moved = affine.copy()
    moved[:3, 3] = 6, -4, 2
    _save(tmp_path / "b.nii.gz", 3000 - head(1).astype(float), moved)
    moved[:3, 3] = 500
    _save(tmp_path / "c.nii.gz", head(1), moved)
    paths = [tmp_path / f"{name}.nii.gz" for name in "abc"]
    with pytest.raises(ValueError, match=r"c\.nii\.gz does not overlap with the first contrast"):
        preprocess([paths[0], paths[2]], SETTINGS)
    moved[:3, 3] = 30, 40, 0
    _save(tmp_path / "d.nii.gz", head(1), moved)
    settings = Preprocessing(spatial_shape=(16, 16, 16), fit="resize", register_contrasts=True)
    with pytest.raises(ValueError, match=r"d\.nii\.gz hardly overlaps with the first contrast"):
        preprocess([paths[0], tmp_path / "d.nii.gz"], settings)
    settings = Preprocessing(spatial_shape=(22, 26, 24), fit="resize", window_percentiles=None)
    apart, near = (
        preprocess(paths[:2], Preprocessing(**{**vars(settings), "register_contrasts": each}))
        for each in (False, True)
    )
    likeness = [
        abs(np.corrcoef(*(v[5:-5, 5:-5, 5:-5].ravel() for v in each.volume.astype(float)))[0, 1])
        for each in (apart, near)
    ]
    assert likeness[0] < 0.6 < 0.95 < likeness[1]
    monkeypatch.setattr(one_grid, "LARGEST_MM", 5.0)  # the movement that is found has 7
    registered = Preprocessing(**{**vars(settings), "register_contrasts": True})
    with pytest.raises(ValueError, match=r"b\.nii\.gz could not be registered .* is [678] mm"):
        preprocess(paths[:2], registered)


@pytest.mark.slow
def test_swapped_patients_and_swapped_columns_are_found(two_contrasts, tmp_path):
    def words(table):
        found = check_cohort(
            table, Columns(), Expectations(contrasts=CONTRASTS), tmp_path / "cache"
        )
        return [str(problem) for problem in found.problems if "exchanged" in str(problem)]

    assert words(two_contrasts()) == []
    swapped = {2: 5, 5: 2}
    (line,) = words(two_contrasts(other=lambda patient: swapped.get(patient, patient)))
    assert "p2" in line
    assert "with those of patient 'p5' exchanged" in line
    table = two_contrasts()
    lines = table.read_text().splitlines()
    lines[4] = "p3,p3_flair.nii.gz,p3_t1.nii.gz,unhealthy"
    table.write_text("\n".join(lines))
    (line,) = words(table)
    assert "p3" in line
    assert "t1 looks like flair of the others" in line


@pytest.mark.slow
def test_one_image_under_two_names_is_an_error(two_contrasts, tmp_path):
    table = two_contrasts()
    (tmp_path / "p2_flair.nii.gz").write_bytes((tmp_path / "p2_t1.nii.gz").read_bytes())
    found = check_cohort(table, Columns(), Expectations(contrasts=CONTRASTS), tmp_path / "cache")
    (error,) = found.errors
    assert (error.patient_id, error.what) == (
        "p2",
        "t1 and flair are one image under two names",
    )


def test_channels_are_windowed_and_scaled_one_by_one_and_a_missing_one_is_nan(
    two_contrasts, tmp_path
):
    table = two_contrasts(missing={(0, 1)})
    cohort = Cohort(str(table), Columns(), SETTINGS, str(tmp_path / "cache"), CONTRASTS)
    volumes = cohort.volumes
    assert volumes.data.shape == (8, 2, 16, 16, 16)
    assert np.isnan(volumes.data[0, 1]).all()
    assert not np.isnan(volumes.data[1:]).any()
    alone = preprocess(cohort.scans[1].paths[1], SETTINGS).volume
    np.testing.assert_array_equal(np.moveaxis(volumes.data[1, 1], 0, -1), alone[0])
    intensity = cohort.fit_intensity(np.arange(8))
    known = volumes.data[1:, 1].astype(float)
    assert intensity.mean[1] == pytest.approx(known.mean(), rel=1e-6)
    assert intensity.divisor[1] == pytest.approx(known.std(), rel=1e-6)


def _mask_table(tmp_path, mask, affine=None):
    _save(tmp_path / "a.nii.gz", head(1), np.diag([2.0, 2.0, 2.0, 1.0]))
    _save(tmp_path / "m.nii.gz", mask, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine)
    (tmp_path / "cohort.csv").write_text("patient_id,image,mask,label\np,a.nii.gz,m.nii.gz,x\n")
    return str(tmp_path / "cohort.csv")


def _box(start, stop, shape=(22, 26, 24)):
    mask = np.zeros(shape)
    mask[tuple(slice(*ends) for ends in zip(start, stop, strict=True))] = 1
    return mask


def test_a_mask_crops_with_its_margin_and_becomes_a_channel(tmp_path):
    table = _mask_table(tmp_path, _box((8, 9, 10), (12, 15, 13)))
    wanted = Preprocessing(roi_margin_mm=4.0, mask_channel=True, voxel_budget=10**6)
    cohort = Cohort(table, Columns(), wanted, str(tmp_path / "cache"))
    cohort.plan()
    assert cohort.preprocessing.spatial_shape == (8, 10, 7)  # two voxels of 2 mm on either side
    assert cohort.num_channels == 2
    image, mask = np.moveaxis(cohort.volumes.data[0], 1, -1)
    np.testing.assert_array_equal(mask, _box((2, 2, 2), (6, 8, 5), (8, 10, 7)))
    whole = preprocess(tmp_path / "a.nii.gz", Preprocessing(spatial_shape=(22, 26, 24)))
    np.testing.assert_array_equal(image, whole.volume[0, 6:14, 7:17, 8:15])


@pytest.mark.parametrize(
    ("mask", "affine", "words"),
    [
        (np.zeros((22, 26, 24)), None, r"m\.nii\.gz is constant \(0\)"),
        (_box((0, 0, 0), (3, 3, 3)), None, r"lies outside the head: 100% of its voxels"),
        (_box((8, 9, 10), (12, 15, 13)), np.diag([2.0, 2.0, 2.5, 1.0]), "is on another grid"),
        (_box((8, 9, 10), (12, 15, 13), (22, 26, 25)), None, "is on another grid"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused_by_name(tmp_path, mask, affine, words):
    table = _mask_table(tmp_path, mask, affine)
    cohort = Cohort(table, Columns(), Preprocessing(roi_margin_mm=4.0), str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=words):
        cohort.check(Expectations(labelled=None))
    table = tmp_path / "cohort.csv"
    table.write_text(table.read_text().replace("m.nii.gz", ""))
    with pytest.raises(ValueError, match="has no mask"):
        read_cohort_table(table, masks=True)


CELLS = {
    "age": ["34", "89+", "n/a", "41,5", "", "old"],
    "sex": ["F", "M", "M", "", "F", "M"],
}


def test_covariates_are_numbers_where_most_cells_are_and_the_others_are_told():
    found = read_covariates(CELLS, ["age", "sex"], "t.csv", 6)
    assert found.columns == (("age", None), ("sex", "F"), ("sex", "M"))
    nan = np.nan
    expected = [[34, 1, 0], [89, 0, 1], [nan, 0, 1], [41.5, 0, 0], [nan, 1, 0], [nan, 0, 1]]
    np.testing.assert_array_equal(found.values, np.array(expected, np.float32))
    assert found.remarks == [
        "Column 'age': '89+' count as the number in them.",
        "Column 'age': 'old' are no numbers: counted as missing.",
    ]
    with pytest.raises(ValueError, match=r"has no column 'site', which is a covariate"):
        read_covariates(CELLS, ["site"], "t.csv", 6)
    new = read_covariates({"sex": ["X", "F"], "age": ["1", "2"]}, found.columns, "n.csv", 2)
    np.testing.assert_array_equal(new.values, [[1, 0, 0], [2, 1, 0]])
    assert new.remarks == ["Column 'sex': 'X' did not occur in the training: counted as missing."]


def test_the_coding_is_scikit_learns_fitted_on_the_given_rows():
    found = read_covariates(CELLS, ["age", "sex"], "t.csv", 6)
    rows = np.array([0, 1, 2, 4])
    coding = fit_coding(found, rows)
    imputer = SimpleImputer(strategy="median").fit(found.values[rows, :1])
    scaler = StandardScaler().fit(imputer.transform(found.values[rows, :1]))
    expected = scaler.transform(imputer.transform(found.values[:, :1]))
    coded = coding.scale(torch.from_numpy(found.values))
    np.testing.assert_allclose(coded[:, :1], expected, rtol=1e-5)
    np.testing.assert_array_equal(coded[:, 1:], found.values[:, 1:])
    stored = {"columns": [["age", None], ["sex", "F"], ["sex", "M"]]}
    stored |= {"fill": [0] * 3, "mean": [0] * 3, "sd": [1] * 3}
    assert Coding.of(stored).columns == found.columns


@pytest.mark.slow
def test_a_fold_serves_all_of_a_row_and_a_checkpoint_of_other_rows_is_refused(
    two_contrasts, tmp_path
):
    ages = {patient: f",{30 + patient}" for patient in range(8)}
    table = str(two_contrasts(missing={(0, 1)}, header=",age", cells=ages))
    settings = {"preprocessing": SETTINGS, "cache_dir": str(tmp_path / "cache")}
    settings |= {"splits": Splits(num_folds=2, num_repeats=1), "contrasts": CONTRASTS}
    data = ScanDataModule(table, covariates=["age"], **settings)
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch["volume"].shape[1:] == (2, 16, 16, 16)
    train = data.cohort.covariates.values[data.rows["train"], 0]
    ages = 30 + batch["row"].numpy()
    expected = (ages - train.mean()) / train.std()
    np.testing.assert_allclose(batch["covariates"][:, 0], expected, rtol=1e-5)
    missing = batch["volume"].isnan().flatten(2).all(2)
    assert missing.tolist() == [[False, row == 0] for row in batch["row"].tolist()]
    assert data.facts() | {"num_channels": 2, "num_covariates": 1} == data.facts()
    for other in ({}, {"contrasts": None, "covariates": ["age"]}):
        columns = Columns(image="image_t1" if other else "image")
        another = ScanDataModule(table, columns, **{**settings, **other})
        with pytest.raises(
            ValueError, match=r"trained with (contrasts|covariates) .* Set --data\.\1"
        ):
            another.load_state_dict(data.state_dict())
