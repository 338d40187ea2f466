"""`check_data`: everything that is wrong with a cohort, one line each, before any training."""

from dataclasses import asdict, dataclass, field
from json import dumps
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli

from commands.runs.early_check import Settings, add_settings, read_settings
from datamodules.checks.cohort_check import CohortCheck, check_cohort, compare_cohorts
from datamodules.checks.cohort_problems import Expectations, Problem, Task
from datamodules.checks.contact_sheet import contact_sheet
from datamodules.reading.cohort_table import Columns
from datamodules.reading.nifti import Reading
from datamodules.reading.nifti_bytes import printable
from files.run_path import run_path


@dataclass(frozen=True)
class CheckedSplits:
    """What a check has to know of the folds."""

    num_folds: int | None = None


@dataclass(frozen=True)
class CheckedPreprocessing:
    """What a check has to know of the preprocessing."""

    assume_orientation: str | None = None
    fill_nan: bool = False
    roi_margin_mm: float | None = None
    mask_channel: bool = False


@dataclass(frozen=True)
class CheckedData:
    """What concerns the table among the settings of a training.

    Args:
        table: The cohort table.
        columns: Names of its columns.
        labels_per: 'scan' if a patient's scans may have different labels.
        classes: Names of the classes.
        task: 'regression' checks the target column in the place of the labels.
        splits: The folds.
        preprocessing: The preprocessing.
        cache_dir: Folder for what is kept of each scan.
        contrasts: Names of the contrasts, where a row has several images.
        covariates: Columns that a model sees next to the images.
    """

    table: str | None = None
    columns: Columns = field(default_factory=Columns)
    labels_per: Literal["patient", "scan"] = "patient"
    classes: list[str] | None = None
    task: Task = "classification"
    splits: CheckedSplits = CheckedSplits()
    preprocessing: CheckedPreprocessing = CheckedPreprocessing()
    cache_dir: str = "cache"
    contrasts: list[str] | None = None
    covariates: list[str] | None = None


def check_data(args: list[str]) -> None:
    """Check what the command line names; `-c` takes the YAML files of a training."""
    configs: list[str] = []
    flags: list[str] = []
    rest = iter(args)
    for argument in rest:
        if argument in ("-c", "--config"):
            configs += [argument, next(rest, "")]
        else:
            (configs if argument.startswith(("-c", "--config=")) else flags).append(argument)
    known: Settings = {}
    add_settings(known, "data", asdict(CheckedData()))
    given = {key: value for key, value in read_settings(configs).items() if key in known}
    auto_cli(
        _check_data, args=flags, prog="main.py check_data", set_defaults=given, exit_on_error=False
    )


def _check_data(
    data: CheckedData = CheckedData(),
    a: str | None = None,
    b: str | None = None,
    run: str = "check-data",
    json: bool = False,
) -> None:
    """Check one cohort, or two and what they share.

    Args:
        data: The cohort.
        a: A table to compare with B's.
        b: A table to compare with A's.
        run: Folder of the contact sheet.
        json: Print JSON instead of a table.

    Raises:
        ValueError: If there are errors to fix.
    """
    tables = [table for table in (data.table, a, b) if table]
    if len(tables) != (1 if data.table else 2):
        raise ValueError("Give one cohort to check, DATA=table.csv, or two, A=one.csv B=other.csv.")
    expected = Expectations(
        labels_per=data.labels_per,
        classes=data.classes,
        num_folds=data.splits.num_folds,
        reading=Reading(data.preprocessing.assume_orientation, data.preprocessing.fill_nan),
        contrasts=data.contrasts or (),
        masks=data.preprocessing.roi_margin_mm is not None or data.preprocessing.mask_channel,
        covariates=data.covariates or (),
        task=data.task,
    )
    cache_dir = Path(data.cache_dir)
    cohorts = {table: _check(table, data.columns, expected, cache_dir) for table in tables}
    shared: list[Problem] = []
    if len(tables) == 2:
        one, other = (cohorts[table] for table in tables)
        shared = compare_cohorts(one, other, expected.reading, cache_dir)
    page = run_path(run) / "contact_sheet.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(contact_sheet(list(cohorts.values())), encoding="utf-8")
    if json:
        print(dumps(_as_json(cohorts, shared), indent=2))
    else:
        for table, cohort in cohorts.items():
            print(_as_text(table, cohort))
        if len(tables) == 2:
            print("\n".join(["A and B:", *(map(str, shared) if shared else ["nothing shared"])]))
        print(f"Contact sheet: {page}")
    problems = [*shared, *(problem for cohort in cohorts.values() for problem in cohort.problems)]
    if num_errors := sum(problem.severity == "error" for problem in problems):
        raise ValueError(
            f"{num_errors} error{'s' * (num_errors > 1)} to fix in {', '.join(tables)}."
        )


def _check(table: str, columns: Columns, expected: Expectations, cache_dir: Path) -> CohortCheck:
    try:
        return check_cohort(table, columns, expected, cache_dir)
    except ValueError as error:
        what, _, fix = str(error).rstrip(".").partition(". ")
        return CohortCheck([], [], [Problem("error", "", "", what, fix or "Fix the table")])


def _as_json(cohorts: dict[str, CohortCheck], shared: list[Problem]) -> dict[str, Any]:
    tables = [
        {
            "table": table,
            "summary": cohort.summary(),
            "problems": [asdict(problem) for problem in cohort.problems],
        }
        for table, cohort in cohorts.items()
    ]
    if len(tables) == 1:
        return tables[0]
    return {"cohorts": tables, "shared": [asdict(problem) for problem in shared]}


def _as_text(table: str, cohort: CohortCheck) -> str:
    lines = [f"{printable(table)}:", *map(str, cohort.problems)]
    for name, value in cohort.summary().items():
        if isinstance(value, dict):
            value = ", ".join(f"{printable(key)} {_join(what)}" for key, what in value.items())
        if value != "":
            lines.append(f"  {name:14} {value}")
    return "\n".join(lines)


def _join(value: Any) -> str:
    return " × ".join(f"{size:g}" for size in value) if isinstance(value, list) else str(value)
