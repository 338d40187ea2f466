"""`compare`: runs on identical folds side by side, their paired differences, and votes."""

from typing import Any

import pandas as pd
from jsonargparse import auto_cli

from commands.reporting.finished_runs import Result, read_results
from commands.reporting.learning_curves import learning_curves
from commands.runs.foundations import PREFIX, is_foundation
from commands.runs.run_folder import FoldRun, fold_folder, read_config, run_path, write_text
from datamodules.splits import folds_tested
from evaluation.predictions import write_table
from evaluation.report import pictures
from evaluation.report.comparison import latex_table
from evaluation.report.comparison_kind import comparison_kind

OPTIMISTIC = (
    "**Optimistic:** by protocol `paper` the test patients chose the checkpoints of {}; each run's "
    "report says by how much that flatters it."
)


def compare(args: list[str]) -> None:
    """Compare the runs that the command line names."""
    auto_cli(_compare, args=args, prog="main.py compare")


def _compare(
    runs: str = "", run: str = "compare", reference: str | None = None, ensemble: str = ""
) -> None:
    """Write a comparison of finished runs.

    Args:
        runs: Names or folders of runs, with spaces between them; a folder of runs stands for each
            of them.
        run: Name of the comparison, kept in runs/<name>, or a folder.
        reference: Row that the others are compared with; None is the first.
        ensemble: Rows whose predictions are also combined, by soft and by hard voting.
    """
    results = read_results(runs.split())
    if len(results) < 2:
        raise ValueError(f"RUNS names {len(results)} run; a comparison needs two or more.")
    reference = _chosen(reference or next(iter(results)), results)
    _refuse_other_folds(results, reference)
    tables = {name: result.predictions for name, result in results.items()}
    inits = {name: init_name(result.facts) for name, result in results.items()}
    kind = comparison_kind(tables)
    members = {name: tables[_chosen(name, results)] for name in ensemble.split()}
    if len(members) == 1:
        raise ValueError(f"ENSEMBLE {ensemble!r} names one run; a vote needs two or more.")
    if members:
        tables |= {name: vote(members) for name, vote in kind.votes.items()}
    comparison = kind.compare(tables, reference)

    folder = run_path(run)
    for name in set(tables) - set(results):
        place = folder / name.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        write_table(tables[name], place / "predictions.csv")
        write_table(kind.rank(tables[name]), place / "ranking.csv")
    folder.mkdir(parents=True, exist_ok=True)
    write_table(comparison.rename_axis("run").reset_index(), folder / "comparison.csv")
    write_text(latex_table(kind.table(comparison)), folder / "comparison.tex")
    kind.draw(comparison, folder / "performance.png")
    curves = _curves(results)
    if len(curves):
        pictures.draw_learning_curves_of_runs(curves, folder / "learning_curves.png")
    optimistic = [name for name, result in results.items() if result.protocol == "paper"]
    first = results[reference]
    num_repeats = first.splits["repeat"].nunique()
    facts = [
        f"{first.predictions['image'].nunique()} scans of "
        f"{first.predictions['patient_id'].nunique()} patients; repeats: {num_repeats}, folds: "
        f"{len(first.splits.groupby(['repeat', 'fold'])) // num_repeats}, the same for all.",
        *_other_trainings(results, reference),
        *([f"The votes are those of {', '.join(members)}."] if members else []),
        *([OPTIMISTIC.format(", ".join(optimistic))] if optimistic else []),
    ]
    added_to = _added_to(results, reference)
    report = kind.write(
        comparison, reference, inits, facts, has_curves=len(curves) > 0, added_to=added_to
    )
    write_text(report, folder / "report.md")
    sentences = kind.verdicts(comparison, reference, inits, added_to)
    print("\n".join([*sentences, f"Report: {folder / 'report.md'}"]))


def _added_to(results: dict[str, Result], reference: str) -> dict[str, str]:
    """Runs that see an image next to the covariates that the reference sees alone."""
    configs = {name: read_config(result.folder) for name, result in results.items()}
    if configs[reference].get("features") != "covariates":
        return {}
    alone = configs[reference]["covariates"]
    return {
        name: " and ".join(alone)
        for name, config in configs.items()
        if "method" not in config
        and set(config["data"]["init_args"].get("covariates") or ()) == set(alone)
    }


def init_name(facts: dict[str, Any]) -> str | None:
    """Name of the run that a run started from, None for random weights."""
    if not facts.get("init"):
        return None
    if is_foundation(facts["init"]):
        return facts["init"].removeprefix(PREFIX)
    path = run_path(facts["init"])
    return (path.parent if path.suffix == ".ckpt" else path).name


def _chosen(name: str, results: dict[str, Result]) -> str:
    for known, result in results.items():
        if name == known or run_path(name) == result.folder:
            return known
    raise ValueError(f"{name!r} is not among the compared runs: {', '.join(results)}.")


def _refuse_other_folds(results: dict[str, Result], reference: str) -> None:
    its = folds_tested(results[reference].splits)
    for name, result in results.items():
        tested = folds_tested(result.splits)
        if tested.equals(its):
            continue
        merged = tested.merge(its, how="outer", indicator=True)
        row = merged[merged["_merge"] != "both"].iloc[0]
        where = name if row["_merge"] == "left_only" else reference
        raise ValueError(
            f"Runs {name} and {reference} have different folds: {where} alone tests patient "
            f"{row['patient_id']!r} in repeat {row['repeat']}, fold {row['fold']}. Run one again "
            "with SPLITS= the other."
        )


def _other_trainings(results: dict[str, Result], reference: str) -> list[str]:
    """Name runs that test the same patients but train on others than the reference."""
    columns = list(results[reference].splits.columns)
    its = results[reference].splits.sort_values(columns, ignore_index=True)
    names = [
        name
        for name, result in results.items()
        if not result.splits.sort_values(columns, ignore_index=True).equals(its)
    ]
    if not names:
        return []
    return [f"Trained on other patients than {reference}, tested on the same: {', '.join(names)}."]


def _curves(results: dict[str, Result]) -> pd.DataFrame:
    """Learning curves of the runs that have some, with a column run."""
    parts = []
    for name, result in results.items():
        pairs = result.predictions[["repeat", "fold"]].drop_duplicates().to_numpy()
        folds = [FoldRun(int(r), int(f), fold_folder(result.folder, r, f)) for r, f in pairs]
        if all(any(each.folder.glob("logs/*/metrics.csv")) for each in folds):
            parts.append(learning_curves(folds).assign(run=name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
