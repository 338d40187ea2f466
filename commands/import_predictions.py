"""`import_predictions`: predictions of any other program as a run, on the folds of the others."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.prepare import Run, prepare
from commands.runs.run_folder import claim, keep_splits
from evaluation.predictions import CASE, PROB, with_decision
from evaluation.summary import RunTables
from evaluation.verification import table_faults
from files.hashes import hash_file

MAX_SHOWN = 20
ROUNDING = 0.01  # of a row's sum: programs write few digits


@dataclass(frozen=True)
class ImportOptions:
    """What is imported.

    Args:
        predictions: CSV with the columns patient_id, repeat, fold, and prob_<class> for every
            class, or predicted for a number; with a column image one row per scan, else one row
            per patient, for all of the patient's scans.
        method: What predicted, in words, for the report.
    """

    predictions: str = ""
    method: str = "another program"


def import_predictions(args: list[str]) -> None:
    """Check the predictions against the cohort and the folds, then write a run's tables."""
    run = prepare("import_predictions", args, ImportOptions)
    started, path = time.monotonic(), Path(run.config.predictions).expanduser()
    predictions = _checked(path, run)
    config = {key: run.settings[key] for key in ("seed_everything", "data")}
    config |= {"method": run.config.method, "features": "features of its own"}
    config |= {"predictions_hash": hash_file(path)}
    words = f"Method: {run.config.method}; its predictions are imported."
    claim(run.folder, config, run.facts | {"init": None, "method": words})
    keep_splits(run.data.splits_table, run.folder)
    write_results(
        run.folder, run.data.cohort, {"wall_time_s": time.monotonic() - started}, predictions
    )
    write_page(run.folder)


def _checked(path: Path, run: Run) -> pd.DataFrame:
    """Make a predictions table of the file, or say all that is wrong with it."""
    data, cohort = run.data, run.data.cohort
    truth, outputs = "label", [PROB + name for name in data.class_names]
    if cohort.task == "regression":
        truth, outputs = "target", ["predicted"]
    given = _read(path, outputs, data.class_names)
    by_image = "image" in given
    if data.labels_per == "scan" and not by_image:
        raise ValueError(f"{path} has no column 'image', which labels_per=scan needs.")
    scans = pd.DataFrame({"patient_id": cohort.patients, "image": [s.image for s in cohort.scans]})
    scans[truth] = cohort.targets if truth == "target" else cohort.labels
    scans = scans.iloc[cohort.real]
    key = ["patient_id", "image"] if by_image else ["patient_id"]
    given = given[[*key, "repeat", "fold", *outputs]].merge(scans, on=key, how="left")
    table = given[["patient_id", "image", "repeat", "fold", truth, *outputs]]
    table = table.fillna({"image": ""}).sort_values(["repeat", "fold"], kind="stable")
    table = table.reset_index(drop=True)
    sums = table[outputs].sum(axis=1, skipna=False)
    if truth == "label":
        inside = table[outputs].ge(0).all(axis=1) & sums.sub(1).abs().le(ROUNDING)
        table[outputs] = table[outputs].where(~inside, table[outputs].div(sums, axis=0))
        table = with_decision(table)
    if data.labels_per == "scan":
        table[CASE] = table["image"]
    faults = table_faults(RunTables(table, None, data.splits_table, scans))
    if faults:
        shown = "\n  ".join([*faults[:MAX_SHOWN], *(["…"] if len(faults) > MAX_SHOWN else [])])
        raise ValueError(
            f"{path} has {len(faults)} faults; cohort.csv is {cohort.table}, splits.csv the folds "
            f"of SPLITS.\n  {shown}"
        )
    return table


def _read(path: Path, outputs: Sequence[str], class_names: Sequence[str]) -> pd.DataFrame:
    """Read a file of predictions whose columns are as they must be."""
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}: give PREDICTIONS=predictions.csv.")
    strings = dict.fromkeys(("patient_id", "image"), str)
    table = pd.read_csv(path, dtype=strings, keep_default_na=False)
    needed = ["patient_id", "repeat", "fold", *outputs]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{path} has no column {missing[0]!r}; it needs {', '.join(needed)}.")
    if others := [
        name for name in map(str, table) if name.startswith(PROB) and name not in outputs
    ]:
        words = f"the classes are {', '.join(class_names)}" if class_names else "a number is wanted"
        raise ValueError(f"{path} has a column {others[0]!r}, but {words}.")
    for name in needed[1:]:
        numbers = pd.to_numeric(table[name], errors="coerce")
        whole = name in outputs or (numbers % 1 == 0)
        if (wrong := table[~(numbers.notna() & whole)]).size:
            row = wrong.iloc[0]
            raise ValueError(
                f"{path}: {name} of patient {row['patient_id']!r} is {str(row[name])!r}, not a "
                f"{'' if name in outputs else 'whole '}number ({len(wrong)} such rows)."
            )
        table[name] = numbers if name in outputs else numbers.astype(int)
    return table
