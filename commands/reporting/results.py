"""What every cross-validation writes once all its folds are predicted, whatever the model."""

from pathlib import Path
from typing import Any

import pandas as pd

from commands.reporting.learning_curves import learning_curves
from commands.runs.main_process import say
from commands.runs.run_folder import FoldRun, fold_folder, plain, read_json, write_json, write_text
from datamodules.cohort import Cohort
from datamodules.reading.cohort_table import read_other_columns
from datamodules.reading.nifti import scan_hash
from datamodules.splits import fold_runs, read_splits
from evaluation.calibration import calibrate
from evaluation.confidence import suspected_labels
from evaluation.predictions import ranking_table, read_predictions, write_table
from evaluation.regression import is_regression, spread_ranking
from evaluation.report import pictures
from evaluation.report.markdown import write_report
from evaluation.report.regression import write_number_report
from evaluation.report.regression_pictures import draw_regression
from evaluation.report.sentences import headline
from evaluation.report.tables import DESCRIBING
from evaluation.summary import RunTables, summarise_run
from files.hashes import hash_file

HASHED = (
    *("predictions.csv", "validation.csv", "splits.csv", "cohort.csv", "config.yaml"),
    *("ranking.csv", "suspected_labels.csv", "report.md"),
)


def write_cohort(cohort: Cohort, folder: Path) -> None:
    """Write cohort.csv: every real scan with its file's hash and what describes its patient."""
    table = pd.DataFrame(
        {
            "patient_id": cohort.patients,
            "image": [scan.image for scan in cohort.scans],
            **(
                {"target": cohort.targets}
                if cohort.task == "regression"
                else {"label": cohort.labels}
            ),
            "file_hash": [scan_hash(scan.path) for scan in cohort.scans],
            "site": [scan.site for scan in cohort.scans],
        }
    )
    assert cohort.table is not None
    for name, values in read_other_columns(cohort.table, cohort.columns, cohort.contrasts).items():
        if name.lower() in DESCRIBING:
            table[name] = values
    write_table(table.iloc[cohort.real], folder / "cohort.csv")


def read_tables(folder: Path) -> RunTables:
    """Read the tables of a run whose folds are all predicted.

    Raises:
        ValueError: If it is not finished, or was made before cohort.csv was written.
    """
    for name in ("predictions.csv", "splits.csv", "cohort.csv"):
        if not (folder / name).is_file():
            raise ValueError(f"Run {folder} has no {name}: give its command again to finish it.")
    splits = read_splits(folder)
    validation = folder / "validation.csv"
    trained = trained_folds(folder, splits)
    return RunTables(
        predictions=read_predictions(folder / "predictions.csv"),
        validation=read_predictions(validation) if validation.is_file() else None,
        splits=splits,
        cohort=pd.read_csv(folder / "cohort.csv", dtype=str, keep_default_na=False),
        curves=learning_curves(trained) if trained else None,
    )


def trained_folds(folder: Path, splits: pd.DataFrame) -> list[FoldRun]:
    """List the folds that have learning curves; none for models without epochs."""
    pairs = [FoldRun(r, f, fold_folder(folder, r, f)) for r, f in fold_runs(splits)]
    return [each for each in pairs if any(each.folder.glob("logs/*/metrics.csv"))]


def write_results(
    folder: Path,
    cohort: Cohort,
    made: dict[str, Any],
    predictions: pd.DataFrame,
    validation: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Write tables, metrics, pictures and report of a run.

    Args:
        folder: Folder of the run, which holds its run.json and splits.csv.
        cohort: The scans.
        made: What run.json shall tell of how it was made: wall_time_s of training and
            prediction, and the device if it is not that of the process that began the run.
        predictions: Predictions of every tested scan and repeat.
        validation: Predictions of the validation part of every fold, if folds have one.

    Returns:
        The metrics.
    """
    write_table(predictions, folder / "predictions.csv")
    if validation is not None:
        write_table(validation, folder / "validation.csv")
    write_cohort(cohort, folder)
    tables = read_tables(folder)  # the figures are those of the files, to the last digit
    is_number = is_regression(tables.predictions)
    ranking = (spread_ranking if is_number else ranking_table)(tables.predictions)
    write_table(ranking, folder / "ranking.csv")
    metrics = plain(summarise_run(tables))
    if tables.curves is not None:
        pictures.draw_learning_curves(tables.curves, folder / "learning_curves.png")
    if is_number:
        draw_regression(tables.predictions, folder)
    else:
        _draw_classification(tables, folder)
    run = read_json(folder / "run.json") | {
        **made,
        "num_fold_runs": len(tables.predictions[["repeat", "fold"]].drop_duplicates()),
    }
    compose = write_number_report if is_number else write_report
    text = compose(metrics, ranking, run, tables.cohort, has_curves=tables.curves is not None)
    write_text(text, folder / "report.md")
    paths = [path for name in HASHED if (path := folder / name).is_file()]
    run["file_hashes"] = {path.name: hash_file(path) for path in paths}
    write_json(run, folder / "run.json")
    write_json(metrics, folder / "metrics.json")
    say(f"{headline(metrics)} Report: {folder / 'report.md'}")
    return metrics


def _draw_classification(tables: RunTables, folder: Path) -> None:
    predictions, held = tables.cases, tables.held_out
    write_table(suspected_labels(predictions), folder / "suspected_labels.csv")
    pictures.draw_roc(predictions, folder / "roc.png")
    pictures.draw_confusion(predictions, folder / "confusion.png")
    pictures.draw_accuracy_by_coverage(predictions, folder / "accuracy_by_coverage.png")
    scaled = calibrate(predictions, held) if held else None
    pictures.draw_reliability(predictions, scaled, folder / "reliability.png")
