"""`rivals`: classical methods on the folds that the networks get, each a run of its own."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import LightningModule
from tqdm import tqdm

from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.command_line import CommandLine
from commands.runs.main_process import say
from commands.runs.run_folder import claim, init_checkpoint, keep_splits, run_path
from commands.training.frozen_features import encode
from commands.training.init_match import init_match
from commands.training.train_cells import resolved_config
from datamodules.reading.cohort_table import read_other_columns
from datamodules.scans import ScanDataModule
from evaluation.predictions import prediction_table
from lightning_modules.classical import RIVALS, fit_rival, predict_probs
from lightning_modules.classifier import Classifier
from lightning_modules.imagenet_baseline import ImageNetBaseline

COVARIATE_NAMES = ("age", "sex", "gender", "volume")


@dataclass(frozen=True)
class RivalOptions:
    """Which rivals are run on which features.

    Args:
        methods: Names of the methods, from lightning_modules/classical.py.
        features: What they see: 'voxels' of the preprocessed scans, 'encoder' for the outputs of
            the model's pretrained encoder: INIT's, or a 2D network's with -c configs/baseline.yaml;
            None is voxels, and encoder where it is pretrained.
        covariates: Columns of the cohort table for the method 'covariates'; None takes those whose
            name has age, sex, gender or volume in it.
    """

    methods: list[str] = field(default_factory=lambda: list(RIVALS))
    features: list[str] | None = None
    covariates: list[str] | None = None


@dataclass(frozen=True)
class Contest:
    """One method on one kind of features."""

    method: str
    features: str

    @property
    def name(self) -> str:
        """Name of the sub-run."""
        plain = self.features in ("voxels", self.method) or self.method == "dummy"
        return self.method if plain else f"{self.method}-{self.features}"


def rivals(args: list[str]) -> None:
    """Cross-validate every chosen method."""
    cli = CommandLine("rivals", args, options=RivalOptions)
    parts = any(cli.config[name] is not None for name in ("fold", "repeat", "only"))
    if parts or cli.config.num_tasks > 1:
        raise ValueError(
            "Rivals are quick: they do every fold. Drop FOLD, REPEAT, only, num_tasks."
        )
    logging.getLogger("lightning_modules").setLevel(logging.WARNING)  # else a line for each fold
    cli.config.data.init_args.augmentation.mode = "none"  # they are fitted on the scans alone
    cli.before_instantiate_classes()
    covariates = _covariates(cli)
    contests = _contests(cli, covariates)
    folder = run_path(cli.config.run)
    say(f"Run {folder}: {len(contests)} rivals. {cli.plan}")
    for line in [*init_match(cli), *cli.data.split_warnings()]:
        say(line)
    for contest in contests:
        _cross_validate(contest, cli, folder / contest.name, covariates)


def _cross_validate(
    contest: Contest, cli: CommandLine, folder: Path, covariates: pd.DataFrame
) -> None:
    what = f"{contest.method} on {contest.features}"
    config = {key: resolved_config(cli)[key] for key in ("seed_everything", "data")}
    config |= {"method": contest.method, "features": contest.features}
    if contest.features == "encoder":
        config |= {key: resolved_config(cli)[key] for key in ("model", "init")}
    if contest.features == "covariates":
        config["covariates"] = list(covariates)
    facts = {
        "seed": cli.config.seed_everything,
        "init": None,
        "method": f"Method: {what}, tuned inside each fold.",
        "data_hash": cli.data.cohort.content_hash(),
        "preprocessing": cli.plan,
    }
    claim(folder, config, facts)
    if (folder / "metrics.json").is_file():
        say(f"{contest.name} is finished already.")
        return
    keep_splits(cli.data.splits_table, folder)
    started = time.monotonic()
    tables = []
    for repeat, fold in tqdm(cli.data.fold_runs(), desc=contest.name, leave=False):
        init = cli.config.init if contest.features == "encoder" else None
        checkpoint = str(init_checkpoint(init, repeat, fold)) if init else None
        _, model, data = cli.build(repeat, fold, checkpoint)
        assert isinstance(data, ScanDataModule)
        data.setup("fit")
        if contest.features == "covariates":
            features: Any = covariates
        elif contest.features == "voxels":
            features = np.asarray(data.cohort.volumes.data, np.float32).reshape(len(covariates), -1)
        else:
            features = _encode(model, data)
        tables.append(_predict_fold(contest, features, data))
    predictions = pd.concat(tables, ignore_index=True)
    made = {"wall_time_s": time.monotonic() - started}
    print(f"{what}: ", end="")
    write_results(folder, cli.data.cohort, predictions, made)
    write_page(folder)


def _predict_fold(contest: Contest, features: Any, data: ScanDataModule) -> pd.DataFrame:
    take = features.iloc if isinstance(features, pd.DataFrame) else features
    test = data.rows["test"]
    train = np.setdiff1d(np.union1d(data.rows["train"], data.rows["val"]), test)
    labels = np.array([data.class_names.index(label) for label in data.cohort.labels])
    patients = [data.cohort.patients[row] for row in train]
    fitted = fit_rival(
        RIVALS[contest.method], take[train], labels[train], patients, data.seed % 2**32
    )
    return prediction_table(
        [data.cohort.scans[row] for row in test],
        predict_probs(fitted, take[test]).tolist(),
        data.class_names,
        repeat=data.repeat,
        fold=data.fold,
        labels_per=data.labels_per,
    )


def _encode(model: LightningModule, data: ScanDataModule) -> np.ndarray:
    """What the model's encoder makes of every scan, (N, F)."""
    assert isinstance(model, Classifier | ImageNetBaseline)
    model.eval().load_start(data)
    assert data.intensity is not None
    return encode(model, data.intensity, data.cohort.volumes.data, torch.device("cpu"))


def _contests(cli: CommandLine, covariates: pd.DataFrame) -> list[Contest]:
    options = cli.config
    if unknown := sorted(set(options.methods) - set(RIVALS)):
        raise ValueError(f"There is no rival {unknown[0]!r}; choose from {', '.join(RIVALS)}.")
    kinds = options.features or ["voxels", *(["encoder"] if _is_pretrained(cli) else [])]
    if unknown := sorted(set(kinds) - {"voxels", "encoder"}):
        raise ValueError(f"There are no features {unknown[0]!r}; choose from voxels, encoder.")
    if "encoder" in kinds and not _is_pretrained(cli):
        raise ValueError("The features 'encoder' need a pretrained run: say INIT=.")
    contests = []
    for method in options.methods:
        if RIVALS[method].inputs == "covariates":
            if len(covariates.columns):
                contests.append(Contest(method, "covariates"))
        elif method == "dummy":
            contests.append(Contest(method, "voxels"))
        else:
            contests += [Contest(method, kind) for kind in kinds]
    return contests


def _is_pretrained(cli: CommandLine) -> bool:
    settings = cli.config.model.init_args
    return bool(
        cli.config.init
        or settings.get("weights_path")
        or settings.get("weights", "none") != "none"  # of the 2D baseline
    )


def _covariates(cli: CommandLine) -> pd.DataFrame:
    """Columns of the table that may tell the classes apart, one row per scan; perhaps none."""
    cohort, wanted = cli.data.cohort, cli.config.covariates
    columns = read_other_columns(cohort.table, cohort.columns)
    if wanted is None:
        wanted = [name for name in columns if any(word in name.lower() for word in COVARIATE_NAMES)]
    if absent := [name for name in wanted if name not in columns]:
        raise ValueError(f"The table {cohort.table} has no column {absent[0]!r}.")
    table = pd.DataFrame(index=range(len(cohort.scans)))
    for name in wanted:
        cells = pd.Series(columns[name]).replace("", None)
        numbers = pd.to_numeric(cells, errors="coerce")
        one_to_one = len(set(zip(cells, cohort.labels, strict=True))) == cells.nunique()
        if one_to_one and cells.nunique() == len(cli.data.class_names):
            say(f"Column {name!r} is the label in other words: left out of the covariates.")
        elif numbers.notna().sum() == cells.notna().sum():
            table[name] = numbers.astype(float)
        else:
            table[name] = cells.fillna("missing")
    return table
