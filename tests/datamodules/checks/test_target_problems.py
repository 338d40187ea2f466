"""Odd cells of a target column: each is named, none is read silently."""

from pathlib import Path

import pytest

from datamodules.checks.cohort_problems import Expectations, class_names, label_problems
from datamodules.checks.target_problems import target_problems
from datamodules.reading.cohort_table import Columns, Scan, read_cohort_table

EXPECTED = Expectations(labelled=True, task="regression")
USUAL = ["20.5", "31", "44.25", "58", "63.1", "70", "25", "38"]


def scans_with(cells, labels=None):
    return [
        Scan(f"p{n}", f"{n}.nii", Path(f"{n}.nii"), label=(labels or cells)[n], target=cell, row=n)
        for n, cell in enumerate(cells)
    ]


def told(cells, expected=EXPECTED):
    return [str(problem) for problem in target_problems(scans_with(cells), expected)]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("89+", "target '89+' is a bound, not a number. Write the number"),
        ("> 90", "target '> 90' is a bound"),
        ("n/a", "target 'n/a' means that it is missing. Fill in a number, or drop the row"),
        ("NaN", "target 'NaN' means that it is missing"),
        ("", "target is empty. Fill in a number"),
        ("34 y", "target '34 y' is no number"),
        ("12.03.2001", "target '12.03.2001' is no number"),
        ("inf", "target 'inf' is no number"),
        ("1e999", "target '1e999' is too large"),
        ("1,234", "target '1,234' may be 1234 or 1.234"),
    ],
)
def test_a_cell_that_is_no_number_is_an_error_with_its_patient(cell, words):
    (problem,) = told([*USUAL, cell])
    assert problem.startswith("error  p8  8.nii  ")
    assert words in problem


def test_cells_that_are_wrong_in_several_rows_are_told_in_one_line():
    (problem,) = told([*USUAL, "n/a", "n/a", "n/a"])
    assert "target 'n/a' of 3 rows (8, 9, 10) means that it is missing" in problem


def test_a_decimal_comma_is_read_and_named():
    (problem,) = told([*USUAL, "34,5", "35,5"])
    assert "warning  target '34,5' of 2 rows (8, 9) has a decimal comma, read as 34.5" in problem


def test_a_semicolon_table_with_decimal_commas_is_read(tmp_path):
    (tmp_path / "a.nii").touch()
    table = tmp_path / "t.csv"
    table.write_text("patient_id;image;alter\np1;a.nii;34,5\n")
    (scan,) = read_cohort_table(table, Columns(target="alter"))
    assert scan.target == "34,5"


def test_a_code_for_a_missing_number_is_far_from_the_others():
    (problem,) = told([*USUAL, "999"])
    assert "warning  p8  8.nii  target '999' is far from the median 44.25" in problem
    assert told([*USUAL, "90"]) == []


def test_one_patient_has_one_target_unless_it_is_told_otherwise():
    scans = [*scans_with(USUAL), Scan("p0", "b.nii", Path("b.nii"), target="22")]
    (problem,) = target_problems(scans, EXPECTED)
    assert "has the targets '20.5' and '22'" in str(problem)
    per_scan = Expectations(labelled=True, task="regression", labels_per="scan")
    assert list(target_problems(scans, per_scan)) == []
    same = [*scans_with(USUAL), Scan("p0", "b.nii", Path("b.nii"), target="20.50")]
    assert list(target_problems(same, EXPECTED)) == []


def test_a_column_without_numbers_or_with_one_number_is_refused():
    assert "error  no scan has a target. Fill the target column" in told([""] * 4)[0]
    assert "all scans have the target 5: there is nothing to predict" in told(["5", "5.0"])[0]
    assert "2 different values alone" in told(["0", "1", "0", "1"])[0]


def test_labels_that_are_a_quantity_get_a_line_that_says_what_to_type():
    ages = [f"{20 + n}" for n in range(30)]
    with pytest.raises(ValueError, match="numbers with 30 different values") as error:
        class_names(scans_with([""] * 30, ages))
    assert "--data.task=regression" in str(error.value)
    assert "--data.columns.target" in str(error.value)
    assert str(error.value).count("\n") == 1
    capped = [*ages, "89+", "n/a"]
    (problem,) = label_problems(scans_with([""] * 32, capped), Expectations(labelled=True))
    assert "numbers with 30 different values" in problem.what


@pytest.mark.parametrize(
    "labels",
    [
        ["0", "1"] * 10,
        [str(n % 11) for n in range(110)],  # eleven organs
        [f"organ {n}" for n in range(30)],
        ["1.5", "3"] * 10,  # field strengths
    ],
)
def test_codes_of_classes_are_no_quantity(labels):
    expected = Expectations(labelled=True)
    problems = list(label_problems(scans_with([""] * len(labels), labels), expected))
    assert problems == []


def test_a_target_column_that_is_not_asked_for_is_named():
    scans = scans_with(USUAL, ["a", "b"] * 4)
    (warning,) = label_problems(scans, Expectations(labelled=True))
    assert (warning.severity, warning.what) == ("warning", "the target column is not read")
    (error,) = label_problems(scans_with(USUAL, [""] * 8), Expectations(labelled=True))
    assert error.severity == "error"
    assert "--data.task=regression" in error.fix
