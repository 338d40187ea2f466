import numpy as np
import pandas as pd
import pytest

from datamodules.splits import Splits, make_splits
from datamodules.splits_check import split_warnings

PATIENTS = [f"p{n}" for n in range(12)]
LABELS = ["rare"] * 2 + ["a"] * 5 + ["b"] * 5


def _table(**parts):
    """One fold, its parts given by the numbers of their patients."""
    rows = [(0, 0, f"p{n}", part) for part, numbers in parts.items() for n in numbers]
    return pd.DataFrame(rows, columns=["repeat", "fold", "patient_id", "part"])


def test_a_class_too_rare_for_the_validation_part_is_named():
    table = make_splits(PATIENTS, LABELS, Splits(num_folds=2, num_repeats=3, val_fraction=0.2))
    (line,) = split_warnings(table, PATIENTS, LABELS)
    assert line.startswith(
        "Class 'rare' is missing in the validation part of 6 of 6 folds (first: repeat 0, fold 0)."
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"train": (2, 3, 4, 7, 8), "val": (0, 5), "test": (1, 6, 11)},
            ["'rare' .* training part"],
        ),
        (
            {"train": (0, 2, 3, 4, 7), "val": (1, 5, 8), "test": (6, 9, 10, 11)},
            ["'rare' .* test part"],
        ),
        ({"train": (0, 2, 7, 8, 9), "test": (1, 3, 4, 5, 6)}, ["'b' .* test part"]),
        ({"train": (0, 2, 3, 7, 8), "test": (1, 4, 9)}, []),
    ],
)
def test_a_given_table_is_looked_at_part_by_part(parts, words):
    lines = [
        line
        for line in split_warnings(_table(**parts), PATIENTS, LABELS)
        if "validation" not in line
    ]
    assert len(lines) == len(words)
    for line, each in zip(lines, words, strict=True):
        assert pd.Series([line]).str.contains(f"{each} of 1 of 1 folds").all()


def test_a_sound_cohort_has_no_warnings_and_one_patient_alone_need_not_have_all_classes():
    patients, labels = [f"p{n}" for n in range(12)], list("ab" * 6)
    for scheme in ("k-fold", "leave-one-patient-out"):
        table = make_splits(patients, labels, Splits(scheme=scheme, num_folds=3, num_repeats=1))
        assert split_warnings(table, patients, labels) == []


def test_training_on_a_small_share_of_the_scans_is_told():
    patients, labels = (
        np.repeat(PATIENTS, [100, *[1] * 11]),
        np.repeat(list("ab" * 6), [100, *[1] * 11]),
    )
    table = make_splits(patients, labels, Splits(num_folds=3, num_repeats=1))
    (line,) = split_warnings(table, patients, labels)
    assert "training part of 1 of 3 folds" in line
    assert "a few patients have most scans" in line
