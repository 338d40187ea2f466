"""`verify`: are a run's files those that it wrote, and do its tables and figures agree?"""

from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from commands.reporting.results import read_tables
from commands.runs.run_folder import (
    FoldRun,
    fold_folder,
    plain,
    read_config,
    read_json,
    run_path,
)
from datamodules.reading.nifti import scan_hash
from datamodules.splits import fold_runs
from evaluation.summary import RunTables, summarise_run
from evaluation.verification import figure_faults, table_faults
from files.hashes import hash_file

MAX_SHOWN = 20


def verify(args: list[str]) -> None:
    """Verify the run that the command line names."""
    auto_cli(_verify, args=args, prog="main.py verify")


def _verify(run: str = "") -> None:
    """Compare the files of a finished run with their hashes, and its tables with each other.

    Args:
        run: Name of the run, kept in runs/<name>, or a folder.
    """
    if not run:
        raise ValueError("No run is given: set RUN=name.")
    folder = run_path(run)
    tables, config = read_tables(folder), read_config(folder)
    metrics = read_json(folder / "metrics.json")
    computed = plain(summarise_run(tables))
    base = Path(config["data"]["init_args"]["table"]).expanduser().parent
    present = tables.cohort[[(base / image).is_file() for image in tables.cohort["image"]]]
    faults = [
        *_hash_faults(folder),
        *(
            f"{base / image}: not the file of patient {patient!r} that was used"
            for patient, image, used in present[["patient_id", "image", "file_hash"]].to_numpy()
            if scan_hash(base / image) != used
        ),
        *_checkpoint_faults(folder, config, tables),
        *table_faults(tables),
        *figure_faults(metrics, computed),
    ]
    print(f"{len(present)} of {len(tables.cohort)} images are in {base} and were compared by hash.")
    if faults:
        shown = "\n  ".join([*faults[:MAX_SHOWN], *(["…"] if len(faults) > MAX_SHOWN else [])])
        raise ValueError(f"Run {folder} has {len(faults)} faults.\n  {shown}")
    print(f"Run {folder}: all files are those that the run wrote, all figures follow from them.")


def _hash_faults(folder: Path) -> list[str]:
    stated = read_json(folder / "run.json").get("file_hashes")
    if not stated:
        return ["run.json has no file_hashes: run its command again"]
    return [
        f"{name}: {'not the file that the run wrote' if path.is_file() else 'is missing'}"
        for name, hashed in stated.items()
        if not (path := folder / name).is_file() or hash_file(path) != hashed
    ]


def _checkpoint_faults(folder: Path, config: dict[str, Any], tables: RunTables) -> list[str]:
    if "model" not in config or "method" in config:  # classical methods keep none
        return []
    folds = [FoldRun(*pair, fold_folder(folder, *pair)) for pair in fold_runs(tables.splits)]
    return [f"{each.best_ckpt} is missing" for each in folds if not each.best_ckpt.is_file()]
