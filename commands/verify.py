"""`verify`: does a run's folder still say what its tables and images give?"""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

from commands.reporting.page import SETTINGS_NAME, compose
from commands.reporting.results import HASHED, hash_files, read_tables
from commands.runs.run_folder import FoldRun, fold_folder, plain, read_json, run_path
from datamodules.reading.nifti import scan_hash
from datamodules.splits import fold_runs, protocol_of
from evaluation.confidence import suspected_labels
from evaluation.predictions import ranking_table, read_predictions, table_text
from evaluation.report.markdown import write_report
from evaluation.report.page import render_report
from evaluation.report.text import report_text
from evaluation.summary import RunTables, summarise_run
from evaluation.verification import figure_faults, impossible_triples, table_faults

MAX_SHOWN = 20


def verify(args: list[str]) -> None:
    """Verify the run that the command line names."""
    auto_cli(_verify, args=args, prog="main.py verify")


def _verify(run: str = "") -> None:
    """Recompute every figure of a run from its tables, and every hash from the files.

    Args:
        run: Name of the run, kept in runs/<name>, or a folder.
    """
    if not run:
        raise ValueError("Say which run: RUN=name.")
    folder = run_path(run)
    faults, notes = verify_run(folder)
    print("\n".join(notes))
    if faults:
        shown = "\n  ".join([*faults[:MAX_SHOWN], *(["…"] if len(faults) > MAX_SHOWN else [])])
        raise ValueError(f"Run {folder}: {len(faults)} things do not match.\n  {shown}")
    print(f"Run {folder}: every figure follows from its tables, every hash from its files.")


def verify_run(folder: Path) -> tuple[list[str], list[str]]:
    """List what does not match, and what was or could not be looked at.

    Raises:
        ValueError: If the run is not finished.
    """
    tables, run = read_tables(folder), read_json(folder / "run.json")
    metrics = read_json(folder / "metrics.json")
    faults = _hash_faults(folder, run)
    image_faults, notes = _image_faults(folder, tables)
    faults += image_faults + table_faults(tables) + _fold_faults(folder, tables)
    faults += impossible_triples(metrics)
    computed = plain(summarise_run(tables, protocol_of(tables.splits)))
    faults += figure_faults(metrics, computed)
    faults += _text_faults(folder, tables, computed, run)
    notes.insert(
        0, f"{len(tables.predictions)} predictions, the figures and both reports were recomputed."
    )
    return faults, notes


def _hash_faults(folder: Path, run: dict[str, Any]) -> list[str]:
    stated, found = run.get("file_hashes", {}), hash_files(folder)
    return [
        f"{name}: hash {found.get(name, 'of no file')}, run.json says {stated.get(name, 'none')}"
        for name in HASHED
        if stated.get(name) != found.get(name)
    ]


def _image_faults(folder: Path, tables: RunTables) -> tuple[list[str], list[str]]:
    settings = yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]
    base = Path(settings["table"]).expanduser().parent
    faults, absent = [], 0
    for row in tables.cohort.to_dict("records"):
        path = base / str(row["image"])
        if not path.is_file():
            absent += 1
        elif scan_hash(path) != row["file_hash"]:
            faults.append(f"{path}: not the file of patient {row['patient_id']!r} that was used")
    checked = len(tables.cohort) - absent
    notes = [f"{checked} images have been compared by hash."]
    if absent:
        notes.append(f"{absent} images are not at hand ({base}) and were not compared.")
    return faults, notes


def _fold_faults(folder: Path, tables: RunTables) -> list[str]:
    """Compare predictions.csv with the folds that it was gathered from, where they are kept."""
    faults = []
    for repeat, fold in fold_runs(tables.splits):
        fold_run = FoldRun(repeat, fold, fold_folder(folder, repeat, fold))
        path = fold_run.folder / "predictions.csv"
        rows = tables.predictions
        rows = rows[(rows["repeat"] == repeat) & (rows["fold"] == fold)].reset_index(drop=True)
        if path.is_file() and not read_predictions(path).equals(rows):
            faults.append(f"predictions.csv: repeat {repeat}, fold {fold} is not what {path} holds")
    return faults


def _text_faults(
    folder: Path, tables: RunTables, computed: dict[str, Any], run: dict[str, Any]
) -> list[str]:
    """Write ranking and reports anew from the tables, and compare."""
    faults = []
    ranking = ranking_table(tables.predictions)
    derived = {"ranking.csv": ranking, "suspected_labels.csv": suspected_labels(tables.cases)}
    faults += [
        f"{name} is not what predictions.csv gives"
        for name, table in derived.items()
        if not (folder / name).is_file() or (folder / name).read_text() != table_text(table)
    ]
    has_curves = tables.curves is not None
    if (folder / "report.md").read_text() != write_report(
        computed, ranking, run, tables.cohort, has_curves=has_curves
    ):
        faults.append("report.md does not say what the tables give")
    if not (folder / "report.html").is_file():
        return faults
    html = (folder / "report.html").read_text()
    settings = read_json(folder / SETTINGS_NAME)
    try:
        page = compose(
            folder,
            **settings,
            metrics=computed,
        )
    except ValueError as error:
        return [*faults, f"report.html cannot be written again: {error}"]
    stated, expected = report_text(html), report_text(render_report(page))
    for section, words in expected.items():
        if stated.get(section) != words:
            faults.append(f"report.html, section {section}: does not say what the tables give")
    return faults
