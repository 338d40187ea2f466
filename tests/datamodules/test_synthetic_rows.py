"""Rows that are no scans but were made from some: for training, never for a figure."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.cohort import Cohort
from datamodules.patches import PatchDataModule
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Columns, read_cohort_table
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits, patients_of

SHARED = [HealthCheck.function_scoped_fixture]  # nothing writes to it


@pytest.fixture
def table(tmp_path, write_scan):
    """Eight patients, two of them with synthetic rows of their own."""
    lines = ["patient_id,image,label,synthetic"]
    for n in range(8):
        for made in ("", "yes", "TRUE")[: 1 + 2 * (n < 2)]:
            image = f"p{n}_{made or 'no'}.nii.gz"
            write_scan(image, seed=len(lines), shape=(6, 6, 6))
            lines.append(f"p{n},{image},{'ab'[n % 2]},{made}")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def _data(table, **splits):
    return ScanDataModule(
        str(table),
        preprocessing=Preprocessing(spatial_shape=(6, 6, 6)),
        splits=Splits(**{"num_folds": 4, "num_repeats": 2, **splits}),
        cache_dir=str(table.parent / "cache"),
    )


@pytest.mark.slow
@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.34]),
    st.sampled_from(["nested", "paper"]),
    st.sampled_from([0.6, 1.0]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=SHARED)
def test_synthetic_rows_train_with_their_patient_and_are_nowhere_else(
    table, seed, val_fraction, protocol, train_fraction
):
    data = _data(
        table,
        seed=seed,
        val_fraction=val_fraction,
        protocol=protocol,
        train_fraction=train_fraction,
    )
    made = {row for row, scan in enumerate(data.cohort.scans) if scan.synthetic}
    patients = np.array(data.cohort.patients)
    assert len(made) == 4
    tested = []
    for repeat, fold in data.fold_runs():
        served = data.with_fold(repeat, fold)
        served.augmentation = served.augmentation.__class__(mode="none")
        served.setup("fit")
        parts = patients_of(data.splits_table, repeat, fold)
        rows = {part: set(its.tolist()) for part, its in served.rows.items()}
        assert not made & (rows["val"] | rows["test"])
        assert rows["train"] == {
            row for row, patient in enumerate(patients) if patient in parts["train"]
        }
        assert not rows["train"] & (rows["test"] | (rows["val"] - rows["test"]))
        tested += rows["test"]
    assert sorted(tested) == sorted(2 * [row for row in range(12) if row not in made])


def test_folds_are_those_of_the_real_scans_alone(table, tmp_path):
    header, *lines = table.read_text().splitlines()
    plain = tmp_path / "plain.csv"
    plain.write_text("\n".join([header, *(line for line in lines if line.endswith(","))]) + "\n")
    assert _data(table).splits_table.equals(_data(plain).splits_table)
    splits = tmp_path / "splits.csv"
    _data(plain).splits_table.to_csv(splits, index=False)
    assert _data(table, path=str(splits)).splits_table.equals(_data(plain).splits_table)


def test_no_patch_of_a_synthetic_row_chooses_a_checkpoint(table):
    settings_ = {"preprocessing": Preprocessing(spatial_shape=(6, 6, 6)), "val_fraction": 0.4}
    for seed in range(6):
        data = PatchDataModule(
            str(table), **settings_, seed=seed, cache_dir=str(table.parent / "cache")
        )
        data.setup("fit")
        real = set(data.cohort.real.tolist())
        val, train = (set(each.rows.tolist()) for each in (data.val_patches, data.train_patches))
        assert val <= real
        patients = np.array(data.cohort.patients)
        assert not set(patients[list(val)]) & set(patients[list(train)])


def test_what_is_neither_yes_nor_no_is_refused_and_prediction_takes_no_synthetic_row(table):
    cohort = Cohort(str(table), Columns(), Preprocessing(), "cache")
    with pytest.raises(ValueError, match="has 4 synthetic rows, for training alone"):
        cohort.refuse_synthetic()
    table.write_text(table.read_text().replace(",TRUE", ",maybe"))
    with pytest.raises(ValueError, match=r"synthetic is 'maybe'\. Write yes or no"):
        read_cohort_table(table)
