"""`check_data`: everything that is wrong with a cohort, one line each, before any training."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser

from commands.runs.run_path import run_path
from datamodules.checks.cohort_check import CohortCheck, check_cohort, compare_cohorts
from datamodules.checks.cohort_problems import Expectations, Problem
from datamodules.checks.contact_sheet import contact_sheet
from datamodules.reading.cohort_table import Columns
from datamodules.reading.nifti_bytes import printable


def check_data(args: list[str]) -> None:
    """Check one cohort, or two and what they share.

    Raises:
        ValueError: If there are errors to mend.
    """
    options = _parse(args)
    data = options.data
    tables = [table for table in (data.table, options.a, options.b) if table]
    if len(tables) != (1 if data.table else 2):
        raise ValueError(
            "Give one cohort to check, DATA=table.csv, or two, A=one.csv B=other.csv."
        )
    expected = Expectations(
        labels_per=data.labels_per,
        classes=data.classes,
        num_folds=data.splits.num_folds,
        assume_orientation=data.preprocessing.assume_orientation,
    )
    columns = Columns(**vars(data.columns))
    cache_dir = Path(data.cache_dir)
    cohorts = {table: _check(table, columns, expected, cache_dir) for table in tables}
    shared: list[Problem] = []
    if len(tables) == 2:
        one, other = (cohorts[table] for table in tables)
        shared = compare_cohorts(one, other, expected.assume_orientation, cache_dir)
    page = run_path(options.run) / "contact_sheet.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(contact_sheet(list(cohorts.values())), encoding="utf-8")
    if options.json:
        print(json.dumps(_as_json(cohorts, shared), indent=2))
    else:
        for table, cohort in cohorts.items():
            print(_as_text(table, cohort))
        if len(tables) == 2:
            print("\n".join(["A and B:", *(map(str, shared) if shared else ["nothing shared"])]))
        print(f"Contact sheet: {page}")
    problems = [*shared, *(problem for cohort in cohorts.values() for problem in cohort.problems)]
    if num_errors := sum(problem.severity == "error" for problem in problems):
        raise ValueError(
            f"{num_errors} error{'s' * (num_errors > 1)} to mend in {', '.join(tables)}."
        )


def _check(table: str, columns: Columns, expected: Expectations, cache_dir: Path) -> CohortCheck:
    try:
        return check_cohort(table, columns, expected, cache_dir)
    except ValueError as error:
        what, _, mend = str(error).rstrip(".").partition(". ")
        return CohortCheck([], [], [Problem("error", "", "", what, mend or "Mend the table")])


def _parse(args: list[str]) -> Any:
    """Take from the settings of a training what concerns its table, and leave the rest."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("-c", "--config", action="append", default=[])
    configs = early.parse_known_args(args)[0].config
    parser = ArgumentParser(prog="main.py check_data", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", type=str, action="append", help="YAML of a training")
    parser.add_argument("--data.table", type=str | None, help="the cohort table")
    parser.add_argument("--a", type=str | None, help="a table to compare with B's")
    parser.add_argument("--b", type=str | None, help="a table to compare with A's")
    parser.add_class_arguments(Columns, "data.columns")
    parser.add_argument("--data.labels_per", type=Literal["patient", "scan"], default="patient")
    parser.add_argument("--data.classes", type=list[str] | None)
    parser.add_argument("--data.splits.num_folds", type=int | None)
    parser.add_argument("--data.preprocessing.assume_orientation", type=str | None)
    parser.add_argument("--data.cache_dir", type=str, default="cache")
    parser.add_argument("--run", type=str, default="check-data", help="folder of the contact sheet")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    known = {action.dest for action in parser._actions}
    for config in configs:
        settings = _flat(_read_yaml(Path(config)).get("data"), "data")
        parser.set_defaults({key: value for key, value in settings.items() if key in known})
    return parser.parse_args(args)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Cannot read the settings {path}: {reason}. Check CONFIG=.") from error
    if not isinstance(content, dict):
        raise ValueError(f"The settings {path} hold no `name: value` pairs. Check CONFIG=.")
    return content


def _flat(settings: Any, prefix: str) -> dict[str, Any]:
    """Nested settings by dotted names; `init_args` is left out of them."""
    if not isinstance(settings, dict):
        return {prefix: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, prefix if name == "init_args" else f"{prefix}.{name}")
    return flat


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
