"""`classical`: classical methods on the folds that the networks get, each a run of its own."""

import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.frozen_features import encoder_features
from commands.runs.main_process import say
from commands.runs.mask_features import has_masks, mask_features
from commands.runs.prepare import Run, prepare
from commands.runs.run_folder import claim, keep_splits
from datamodules.checks.spelling import is_missing
from datamodules.covariates import read_covariates
from datamodules.reading.cohort_table import read_other_columns
from datamodules.scans import ScanDataModule
from evaluation.predictions import prediction_table
from evaluation.regression import regression_table
from lightning_modules.classical import (
    METHODS,
    REGRESSION_METHODS,
    ClassicalMethod,
    fit_method,
    predict_probs,
)
from lightning_modules.harmonisation import fit_sites
from lightning_modules.scan_classifier import ScanClassifier

CONSTANT = ("dummy", "mean")  # see nothing
COVARIATE_NAMES = ("age", "sex", "gender", "volume")


@dataclass(frozen=True)
class ClassicalOptions:
    """Which classical methods are run on which features.

    Args:
        methods: Names of the methods, from lightning_modules/classical.py; 'linear-probe' and
            'mlp-probe' see an encoder's outputs alone. None is all of them.
        features: What they see: 'voxels' of the preprocessed scans, 'encoder' for the outputs of
            the model's pretrained encoder: INIT's, or a 2D network's with -c configs/baseline.yaml;
            None is voxels, and encoder where it is pretrained.
        balance: 'smote' fills up rare classes in the training part of each fold and inner fold with
            points between the features of two neighbours (SMOTE); covariates are left alone.
        harmonise: 'site' brings voxels or an encoder's outputs of all sites to one location and
            scale by ComBat, fitted on the training part of each fold.
    """

    methods: list[str] | None = None
    features: list[str] | None = None
    balance: Literal["none", "smote"] = "none"
    harmonise: Literal["none", "site"] = "none"


@dataclass(frozen=True)
class MethodRun:
    """One method on one kind of features, perhaps balanced or harmonised."""

    method: str
    features: str
    estimator: ClassicalMethod
    smote: bool = False
    by_site: bool = False

    @property
    def name(self) -> str:
        """Name of the sub-run."""
        on_both = self.estimator.inputs == "image"
        more = ["encoder"] if on_both and self.features == "encoder" else []
        more += ["smote"] * self.smote + ["harmonised"] * self.by_site
        return "-".join([self.method, *more])

    @property
    def words(self) -> str:
        """What it does."""
        more = " after SMOTE" * self.smote + ", harmonised by site" * self.by_site
        return f"{self.method} on {self.features}{more}"


def classical(args: list[str]) -> None:
    """Cross-validate every chosen method."""
    plain = "--data.augmentation.mode=none"  # they are fitted on the scans alone
    run = prepare("classical", [*args, plain], ClassicalOptions)
    parts = any(run.config[name] is not None for name in ("fold", "repeat", "only"))
    if parts or run.config.num_tasks > 1:
        raise ValueError(
            "Classical methods are quick: every fold is done. Drop FOLD, REPEAT, only, num_tasks."
        )
    logging.getLogger("lightning_modules").setLevel(logging.WARNING)  # else a line for each fold
    covariates = _covariates(run)
    methods = _method_runs(run, covariates)
    run.describe(reads=(read := [str(name) for name in covariates]))
    if read:
        say(f"Covariates: {', '.join(read)}.")
    for line in run.data.split_warnings():
        say(line)
    say(f"{len(methods)} classical methods:")
    for method in methods:
        _cross_validate(method, run, covariates)


def _cross_validate(method: MethodRun, run: Run, covariates: pd.DataFrame) -> None:
    folder, what = run.folder / method.name, method.words
    config = {key: run.settings[key] for key in ("seed_everything", "data")}
    config |= {"method": method.method, "features": method.features}
    config |= {"balance": "smote"} if method.smote else {}
    config |= {"harmonise": "site"} if method.by_site else {}
    if method.features == "encoder":
        config |= {key: run.settings[key] for key in ("model", "init")}
    if method.features == "covariates":
        config["covariates"] = list(covariates)
    words = f"Method: {what}, tuned inside each fold."
    claim(folder, config, run.facts | {"init": None, "method": words})
    if (folder / "metrics.json").is_file():
        say(f"{method.name} is finished already.")
        return
    keep_splits(run.data.splits_table, folder)
    started = time.monotonic()
    tables, masks = [], None
    unseen: set[str] = set()
    for fold_run in tqdm(run.fold_runs, desc=method.name, leave=False):
        trainer, model, data = run.build(fold_run)
        assert isinstance(data, ScanDataModule)
        data.setup("fit")
        if method.features == "covariates":
            features: Any = covariates
        elif method.features == "mask":
            features = masks = mask_features(data.cohort) if masks is None else masks
        elif method.features == "voxels":
            features = np.asarray(data.cohort.volumes.data, np.float32).reshape(len(covariates), -1)
        else:
            if not isinstance(model, ScanClassifier):
                raise ValueError(
                    f"{type(model).__name__} is no ScanClassifier: it has no features that these "
                    "methods could use. Set --features=[voxels]."
                )
            features = encoder_features(model, data, trainer.strategy.root_device)
        tables.append(_predict_fold(method, features, data, unseen))
    if unseen:
        say(f"Sites without enough training scans in a fold stay as they are: {sorted(unseen)}.")
    predictions = pd.concat(tables, ignore_index=True)
    made = {"wall_time_s": time.monotonic() - started}
    print(f"{what}: ", end="")
    write_results(folder, run.data.cohort, made, predictions)
    write_page(folder)


def _predict_fold(
    method: MethodRun, features: Any, data: ScanDataModule, unseen: set[str]
) -> pd.DataFrame:
    take: Any = features.iloc if isinstance(features, pd.DataFrame) else features
    test = data.rows["test"]
    train = np.setdiff1d(np.union1d(data.rows["train"], data.rows["val"]), test)  # sorted
    is_number = data.cohort.task == "regression"
    labels = data.cohort.targets if is_number else data.labels
    patients = [data.cohort.patients[row] for row in train]
    if method.by_site:
        sites = np.array([scan.site for scan in data.cohort.scans], dtype=object)
        scales = fit_sites(take[train], sites[train].tolist(), labels[train])
        take = scales.apply(take[:], sites.tolist())
        unseen |= set(sites[test]) - set(scales.shifts)
    seed = data.seed % 2**32
    made = [data.cohort.scans[row].synthetic for row in train]
    known = take[train], labels[train], patients, seed
    fitted = fit_method(method.estimator, *known, smote=method.smote, synthetic=made)
    scans = [data.cohort.scans[row] for row in test]
    place: Any = {"repeat": data.repeat, "fold": data.fold, "labels_per": data.labels_per}
    if is_number:
        return regression_table(scans, labels[test], fitted.predict(take[test]), **place)
    probs = predict_probs(fitted, take[test]).tolist()
    return prediction_table(scans, probs, data.class_names, **place)


def _method_runs(run: Run, covariates: pd.DataFrame) -> list[MethodRun]:
    options = run.config
    known = REGRESSION_METHODS if run.data.cohort.task == "regression" else METHODS
    wanted = list(known) if options.methods is None else options.methods
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(
            f"There is no classical method {unknown[0]!r}; choose from {', '.join(known)}."
        )
    kinds = options.features or ["voxels", *(["encoder"] if _is_pretrained(run) else [])]
    if unknown := sorted(set(kinds) - {"voxels", "encoder"}):
        raise ValueError(f"There are no features {unknown[0]!r}; choose from voxels, encoder.")
    if "encoder" in kinds and not _is_pretrained(run):
        raise ValueError("The features 'encoder' need a pretrained run: give INIT=.")
    kinds_of = {
        "image": kinds,
        "encoder": [kind for kind in kinds if kind == "encoder"],
        "covariates": ["covariates"] if len(covariates.columns) else [],
        "mask": ["mask"] if has_masks(run.data.cohort) else [],
    }
    if options.balance == "smote" and known is REGRESSION_METHODS:
        raise ValueError("A regression has no classes: drop --balance=smote.")
    by_site = options.harmonise == "site"
    if by_site and (nowhere := [s for s in run.data.cohort.scans if not s.site]):
        raise ValueError(
            f"--harmonise=site needs the site of each scan, but patient {nowhere[0].patient_id!r} "
            "has none: fill the column site, or name it in --data.columns.site."
        )
    if by_site and run.data.cohort.incomplete:
        raise ValueError("--harmonise=site needs every contrast of each scan: leave rows out.")
    runs = [
        MethodRun(
            method,
            kind,
            known[method],
            smote=options.balance == "smote" and kind != "covariates" and method not in CONSTANT,
            by_site=by_site and kind in ("voxels", "encoder") and method not in CONSTANT,
        )
        for method in wanted
        for kind in (["voxels"] if method in CONSTANT else kinds_of[known[method].inputs])
    ]
    if not runs:
        raise ValueError(
            "None of these methods can be run: probes need a pretrained encoder (give INIT=), "
            "'covariates' needs columns such as age or sex, 'mask-features' a mask in each row."
        )
    return runs


def _is_pretrained(run: Run) -> bool:
    settings = run.config.model.init_args
    return bool(
        run.config.init
        or settings.get("weights_path")
        or settings.get("weights", "none") != "none"  # of the 2D baseline
    )


def _covariates(run: Run) -> pd.DataFrame:
    """Columns of the table that may tell the classes apart, one row per scan; perhaps none.

    They are those of --data.covariates, or have age, sex, gender or volume in their names.
    """
    cohort = run.data.cohort
    cells = read_other_columns(cohort.table, cohort.columns, cohort.contrasts)
    guessed = [name for name in cells if any(word in name.lower() for word in COVARIATE_NAMES)]
    found, table = cohort.covariates, pd.DataFrame(index=range(len(cohort.scans)))
    told: set[str] = set()
    if not found.columns:
        filled = [name for name in guessed if not all(map(_is_empty, cells[name]))]
        found = read_covariates(cells, filled, str(cohort.table), len(table))
        for remark in found.remarks:
            say(remark)
    for (name, category), values in zip(found.columns, found.values.T, strict=True):
        words = pd.Series(["" if _is_empty(cell) else cell for cell in cells[name]])
        known = words.replace("", None)
        one_to_one = len(set(zip(known, cohort.labels, strict=True))) == known.nunique()
        is_class = one_to_one and known.nunique() == len(run.data.class_names)
        if is_class or cells[name] == cohort.labels:
            if name not in told:
                say(f"Column {name!r} is the label in other words: left out of the covariates.")
            told.add(name)
        elif category is None:
            table[name] = values.astype(float)
        else:
            table[name] = words.replace("", "missing")
    return table


def _is_empty(cell: str) -> bool:
    return not cell or is_missing(cell)
