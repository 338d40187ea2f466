"""report.html of a finished run: what it says, and its pictures."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser
from lightning import LightningDataModule

from commands.bundles.ensemble import CPU, Ensemble, fold_model, input_batches, open_ensemble
from commands.bundles.maps import NUM_CHECKED, MeanMaps
from commands.reporting.finished_runs import read_results
from commands.reporting.results import read_tables
from commands.runs.run_folder import fold_folder, read_config, read_json, write_text
from datamodules.cohort import Cohort
from datamodules.splits import folds_tested
from evaluation.confidence import suspected_labels
from evaluation.predictions import ranking_table
from evaluation.regression import is_regression, spread_ranking
from evaluation.report.comparison_kind import comparison_kind
from evaluation.report.page import PICTURES, Page, render_report
from evaluation.report.views import RAISES, SPEAKS, data_uri, view
from evaluation.summary import RunTables
from lightning_modules.deployment import FoldModel
from lightning_modules.saliency import (
    MapKind,
    class_map,
    likeness_if_randomised,
    likeness_words,
)
from lightning_modules.scan_classifier import ScanClassifier

MAX_VIEWS = 150  # scans with pictures: keeps the page below 5 MB
Maps = Literal["auto", "none", MapKind]
Views = dict[tuple[str, str], tuple[str, str]]
MeanViews = list[tuple[str, str, str]]


def write_page(
    folder: Path, *, others: str = "", anonymous: bool = False, maps: Maps = "auto"
) -> Path:
    """Write report.html.

    Args:
        folder: Folder of a finished run.
        others: Names of other runs.
        anonymous: Whether to hide names.
        maps: Which maps to draw.
    """
    page = _page(folder, others, anonymous)
    views, note, means = _views(folder, page, maps)
    pictures = {
        name: data_uri((folder / name).read_bytes(), "image/png")
        for files in PICTURES.values()
        for name in files
        if (folder / name).is_file()
    }
    settings = vars(page) | {"views": views, "views_note": note, "pictures": pictures}
    settings["mean_maps"] = means
    path = folder / "report.html"
    write_text(render_report(Page(**settings)), path)
    return path


def _page(folder: Path, others: str, anonymous: bool) -> Page:
    """Gather what a report says, without its pictures."""
    tables, metrics = read_tables(folder), read_json(folder / "metrics.json")
    if "per_scan" not in metrics:
        raise ValueError(
            f"{folder / 'metrics.json'} is of an earlier version, whose figures count scans where "
            "these count patients. Give the run's command again; for classical methods delete "
            "metrics.json and report.html first."
        )
    sanity, run = folder / "sanity.json", read_json(folder / "run.json")
    is_number = is_regression(tables.predictions)
    return Page(
        tables=tables,
        metrics=metrics,
        run={"num_fold_runs": run.get("num_cells"), **run},  # old runs have the other name
        config=read_config(folder),
        ranking=(spread_ranking if is_number else ranking_table)(tables.predictions),
        suspects=pd.DataFrame(columns=["patient_id", "image", "suspected"], dtype=object)
        if is_number
        else suspected_labels(tables.cases),
        comparison=_comparison(folder, tables, others) if others else None,
        checks=read_json(sanity)["checks"] if sanity.is_file() else None,
        anonymous=anonymous,
    )


def _comparison(folder: Path, tables: RunTables, names: str) -> dict[str, Any]:
    """Other runs: their figures, and the paired difference where the folds are the same."""
    others = {
        name: result
        for name, result in read_results(names.split()).items()
        if result.folder.resolve() != folder.resolve()
    }
    own = folds_tested(tables.splits)
    same = {
        name: result for name, result in others.items() if folds_tested(result.splits).equals(own)
    }
    kind = comparison_kind(
        {folder.name: tables.predictions}
        | {name: result.predictions for name, result in others.items()}
    )
    sentences, differences = [], pd.DataFrame()
    if same:
        runs = {folder.name: tables.predictions}
        runs |= {name: result.predictions for name, result in same.items()}
        differences = kind.compare(runs, folder.name)
        inits = dict.fromkeys(runs)
        sentences = kind.verdicts(differences, folder.name, inits)
    rows = []
    for name, place in {folder.name: folder, **{n: r.folder for n, r in others.items()}}.items():
        figures = read_json(place / "metrics.json")
        row = [name, *kind.figures(figures), figures["protocol"]]
        if name in same:
            row.append(kind.paired(differences.T[name].to_dict()))
        else:
            row.append("this run" if place == folder else "other folds: no paired difference")
        rows.append(row)
    columns = ["Run", *kind.titles[:2], "Protocol", kind.titles[2]]
    return {"sentences": sentences, "columns": columns, "rows": rows}


def _views(folder: Path, page: Page, maps: Maps) -> tuple[Views, str, MeanViews]:
    """Draw the most doubtful scans, those whose label is in doubt, and the mean maps."""
    ranking, suspects = page.ranking, page.suspects
    try:
        cohort = open_cohort(page.config)
        volumes = cohort.volumes
    except ValueError as error:
        why = "they are not at hand as they were" if page.anonymous else error  # it names files
        return {}, f"No pictures of the scans: {why}.", []
    rows = {(scan.patient_id, scan.image): row for row, scan in enumerate(cohort.scans)}
    doubtful = list(zip(ranking["patient_id"], ranking["image"], strict=True))[:MAX_VIEWS]
    doubted = suspects[suspects["suspected"].astype(bool)]
    wanted = dict.fromkeys([*doubtful, *zip(doubted["patient_id"], doubted["image"], strict=True)])
    predicted = ranking.set_index(["patient_id", "image"])["predicted"]
    ensemble, kind = _network(folder, page.config, maps)
    predictions = page.tables.predictions
    members = _members(folder, ensemble, predictions) if ensemble is not None else {}
    verb, what = shows = RAISES if is_regression(predictions) else SPEAKS
    views: Views = {}
    num_empty, likenesses, means = 0, list[float](), MeanMaps()
    for scan in wanted:
        if scan not in rows:
            continue
        volume, covariates = next(input_batches(cohort, np.array([rows[scan]])))
        heat = None
        if ensemble is not None and kind is not None:
            fold = members[scan]
            k = ensemble.classes.index(predicted[scan]) if ensemble.classes else 0
            coded = None if covariates is None else fold.code(covariates)
            seen = fold.scale(volume), k, kind, coded
            heat = class_map(fold.model, *seen)
            num_empty += not heat.any()
            if len(likenesses) < NUM_CHECKED:
                likenesses.append(likeness_if_randomised(heat, fold.model, *seen))
        right, front, up = volumes.spacings_mm[rows[scan]]
        voxels = volume[0].float().numpy()
        if heat is not None:
            means.add(str(predicted[scan]) if ensemble and ensemble.classes else "", voxels, heat)
        views[scan] = view(voxels, (right, front, up), heat, shows=shows)
    first = " (the first scan of each)" if (ranking["num_scans"] > 1).any() else ""
    note = (
        f"Pictures of {len(views)} of {len(ranking)} {page.metrics['case']}s{first}, as "
        "preprocessed, R on the left."
    )
    if kind is not None:
        note += (
            f" Maps: {kind}, what {verb}s {what}, by the model of repeat 0 that never saw the "
            "patient; they show where the network looks, not why."
        )
    if likenesses:
        note += f" {likeness_words(likenesses)}"
    if num_empty:
        found = f"nothing was found to {verb} {what}"
        note += f" {num_empty} of {len(views)} maps are empty: {found}."
    sizes = np.median(volumes.spacings_mm, axis=0)
    return (
        views,
        note,
        [_mean_view(name, *its, sizes, shows) for name, its in means.means().items()],
    )


def _mean_view(
    name: str,
    number: int,
    volume: np.ndarray,
    heat: np.ndarray,
    sizes: np.ndarray,
    shows: tuple[str, str],
) -> tuple[str, str, str]:
    """Draw the mean of a class; its title, the picture, words for those who cannot see it."""
    right, front, up = sizes
    strongest = heat / max(float(heat.max()), 1e-12)
    title = f"{name} ({number} scans)" if name else f"All ({number} scans)"
    return title, *view(volume, (right, front, up), strongest, shows=shows)


def open_cohort(config: dict[str, Any]) -> Cohort:
    """Open the cohort that a run's config.yaml names."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    return parser.instantiate(parser.parse_object({"data": config["data"]})).data.cohort


def _network(
    folder: Path, config: dict[str, Any], maps: Maps
) -> tuple[Ensemble | None, MapKind | None]:
    if maps == "none" or "model" not in config or "method" in config:
        return None, None
    ensemble = open_ensemble(folder)
    if maps != "auto":
        return ensemble, maps
    model = fold_model(ensemble, ensemble.members[0], folder).model
    drawn = isinstance(model, ScanClassifier) and model.has_class_maps
    return (ensemble, "gradcam") if drawn else (None, None)


def _members(
    folder: Path, ensemble: Ensemble, predictions: pd.DataFrame
) -> dict[tuple[str, str], FoldModel]:
    """The model of the first repeat that has not seen a scan, by patient and image."""
    first = predictions[predictions["repeat"] == predictions["repeat"].min()]
    by_name = {member.name: member for member in ensemble.members}
    found: dict[tuple[str, str], FoldModel] = {}
    for (repeat, fold), rows in first.groupby(["repeat", "fold"]):
        name = fold_folder(folder, int(repeat), int(fold)).name
        model = fold_model(ensemble, by_name[name], folder).to(CPU)
        model.model.requires_grad_(True)  # class maps need gradients
        found |= dict.fromkeys(zip(rows["patient_id"], rows["image"], strict=True), model)
    return found
