"""The trained folds of a run or of an exported bundle, ready to predict new scans."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from lightning import LightningModule
from safetensors.torch import load_file
from torch import Tensor

from commands.bundles.reference import Reference
from commands.runs.fold_tables import out_of_fold_predictions, validation_predictions
from commands.runs.run_folder import FoldRun, fold_folder, read_json
from datamodules.cache.device_storage import volume_tensor
from datamodules.checks.cohort_problems import Task
from datamodules.cohort import Cohort
from datamodules.covariates import NO_COVARIATES, Coding
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Columns
from datamodules.splits import fold_runs, read_splits
from datamodules.target import TargetScale
from datamodules.volumes import Intensity, Volumes
from evaluation.calibration import Calibration, fit_calibration, held_out
from evaluation.regression import is_regression
from files.yaml_text import read_yaml
from lightning_modules.deployment import FoldModel, FoldNumber, MeanModel
from lightning_modules.transfer import Seen, read_checkpoint, read_seen

BATCH_SIZE = 16
CPU = torch.device("cpu")
SPEC = Path("configs/ensemble.json")  # in a bundle


@dataclass(frozen=True)
class Member:
    """One trained fold.

    Args:
        name: Name of its folder in the run.
        weights: File of its weights, relative to the run or bundle.
        intensity: Brightness of its training scans.
        calibration: What makes probabilities of its scores; None if nothing was left to fit it on.
        reference: What its training scans were like; None if nobody has written it down.
        coding: How its covariates are imputed and scaled.
        target_scale: Mean and spread of its training targets; None where classes are predicted.
        seen: Patients and scans that its weights have seen; a bundle does not tell.
    """

    name: str
    weights: str
    intensity: Intensity
    calibration: Calibration | None
    reference: Reference | None
    coding: Coding = NO_COVARIATES
    target_scale: TargetScale | None = None
    seen: Seen = field(default_factory=Seen)


@dataclass(frozen=True)
class Ensemble:
    """What predicts new scans.

    Args:
        classes: Names of the classes in the order of the outputs, of two the positive one last;
            none where a number is predicted.
        preprocessing: What is done to a scan.
        model: Class and settings of the network, as in the run's config.yaml.
        columns: Names of the cohort table's columns patient_id and image.
        members: The trained folds, of all repeats.
        labels_per: 'scan' if a patient's scans may have different labels.
        contrasts: Names of the contrasts, where a scan has several.
        augmentation: How its training scans were augmented; None if nobody has written it down.
    """

    classes: list[str]
    preprocessing: Preprocessing
    model: dict[str, Any]
    columns: dict[str, str]
    members: list[Member]
    labels_per: Literal["patient", "scan"] = "patient"
    contrasts: Sequence[str] = ()
    augmentation: dict[str, Any] | None = None

    def cohort(self, table: str | None, cache_dir: str, columns: Columns | None = None) -> Cohort:
        """Open a cohort as the training cohort was opened.

        Args:
            table: Path of its table.
            cache_dir: Folder for preprocessed volumes; may be deleted at any time.
            columns: Names of its columns, if more than those of patient and image are needed.
        """
        return Cohort(
            table,
            columns or Columns(**self.columns),
            self.preprocessing,
            cache_dir,
            self.contrasts,
            self.members[0].coding.columns,
            self.task,
        )

    @property
    def task(self) -> Task:
        """Whether classes or a number are predicted."""
        return "classification" if self.classes else "regression"

    @property
    def references(self) -> list[Reference]:
        """What is known of the members' training scans."""
        return [member.reference for member in self.members if member.reference is not None]


def open_ensemble(folder: Path) -> Ensemble:
    """Open a finished run, or a bundle that `export` has written.

    Raises:
        ValueError: If there is none, or if a fold is missing.
    """
    if (folder / SPEC).is_file():
        return _open_bundle(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"There is no run in {folder}. Set RUN= to a run of `make finetune`.")
    return _open_run(folder)


def fold_model(ensemble: Ensemble, member: Member, folder: Path) -> FoldModel:
    """Build a member's network and fill it with its weights.

    Args:
        ensemble: What it belongs to.
        member: The fold.
        folder: The run or bundle.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    model = parser.instantiate(parser.parse_object({"model": ensemble.model})).model
    model.load_state_dict(read_weights(folder / member.weights))
    calibration = asdict(member.calibration) if member.calibration else {}
    if (scale := member.target_scale) is not None:
        calibration = {"target_mean": scale.mean, "target_sd": scale.sd}
    return scaled_model(model, member.intensity, member.coding, **calibration)


def scaled_model(
    model: LightningModule, intensity: Intensity, coding: Coding, **more: Any
) -> FoldModel:
    """Put a network behind the scales of its training scans."""
    numbers = [list(coding.fill), list(coding.mean), list(coding.sd)]
    kind = FoldNumber if "target_sd" in more else FoldModel
    return kind(model, intensity.mean, intensity.divisor, coding=numbers, **more)


def bundle_network(bundle_root: str) -> MeanModel:
    """Build the mean of all folds of a bundle; its inference.json names this function.

    Args:
        bundle_root: Folder of the bundle.
    """
    folder = Path(bundle_root)
    ensemble = open_ensemble(folder)
    return MeanModel([fold_model(ensemble, member, folder) for member in ensemble.members])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint or a .safetensors file, running no code from it."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return read_checkpoint(path)["state_dict"]


def volume_batches(
    volumes: Volumes, rows: np.ndarray, device: torch.device = CPU
) -> Iterator[Tensor]:
    """Serve rows of the cached volumes, float16 (B, C, W, H, D), a few at a time."""
    for start in range(0, len(rows), BATCH_SIZE):
        yield volume_tensor(volumes.data[rows[start : start + BATCH_SIZE]]).to(device)


def input_batches(cohort: Cohort, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Serve what a fold sees of scans: volumes, and covariates as they are in the table."""
    known = torch.from_numpy(cohort.covariates.values) if cohort.covariates.columns else None
    for start, volume in enumerate(volume_batches(cohort.volumes, rows)):
        chosen = rows[start * BATCH_SIZE : (start + 1) * BATCH_SIZE]
        yield volume, None if known is None else known[chosen]


def _open_run(folder: Path) -> Ensemble:
    config = read_yaml(folder / "config.yaml")
    if "model" not in config or "method" in config:
        raise ValueError(f"Run {folder} has no network. Set RUN= to a run of `make finetune`.")
    if not (folder / "splits.csv").is_file():
        raise ValueError(f"Run {folder} has no folds. Set RUN= to a run of `make finetune`.")
    pairs = fold_runs(read_splits(folder))
    folds = [FoldRun(repeat, fold, fold_folder(folder, repeat, fold)) for repeat, fold in pairs]
    if missing := [fold.folder.name for fold in folds if not fold.finished]:
        raise ValueError(
            f"Run {folder} is not finished: {len(missing)} of {len(folds)} folds are missing "
            f"(first: {missing[0]}). Give its command again."
        )
    settings = config["data"]["init_args"]
    name = config["data"]["class_path"].rpartition(".")[2]
    states, members, calibrations = [], [], _calibrations(folds)
    for fold in folds:
        checkpoint = read_checkpoint(fold.best_ckpt)
        states.append(checkpoint[name])
        members.append(
            Member(
                name=fold.folder.name,
                weights=str(fold.best_ckpt.relative_to(folder)),
                intensity=Intensity.of(checkpoint[name]["intensity"]),
                calibration=calibrations.get((fold.repeat, fold.fold)),
                reference=_read_reference(fold.folder / "reference.json"),
                coding=Coding.of(checkpoint[name].get("covariates")),
                target_scale=TargetScale.of(checkpoint[name].get("target_scale")),
                seen=read_seen(checkpoint),
            )
        )
    return Ensemble(
        classes=states[0]["classes"],
        preprocessing=Preprocessing.made_with(states[0]["preprocessing"]),
        model=config["model"],
        columns={column: settings["columns"][column] for column in ("patient_id", "image")},
        members=members,
        labels_per=settings.get("labels_per", "patient"),
        contrasts=states[0].get("contrasts", []),
        augmentation=settings.get("augmentation"),
    )


def _open_bundle(folder: Path) -> Ensemble:
    spec = read_json(folder / SPEC)
    members = []
    for member in spec.pop("members"):
        reference = member.pop("reference")
        intensity, scale = Intensity.of(member.pop("intensity")), member.pop("target_scale", None)
        reference = Reference(**reference) if reference else None
        calibration = _stored_calibration(member, len(spec["classes"]))
        coding = Coding.of(member.pop("coding", None))
        members.append(
            Member(
                **member,
                intensity=intensity,
                calibration=calibration,
                reference=reference,
                coding=coding,
                target_scale=TargetScale.of(scale),
            )
        )
    preprocessing = Preprocessing.made_with(spec.pop("preprocessing"))
    return Ensemble(**spec, preprocessing=preprocessing, members=members)


def as_spec(ensemble: Ensemble) -> dict[str, Any]:
    """Turn an ensemble into what a bundle says of it: no patients, and no paths of this machine."""
    spec = asdict(ensemble)
    for member in spec["members"]:
        del member["seen"]
        member["weights"] = f"models/{member['name']}.safetensors"
    settings = spec["model"]["init_args"]
    for name in ("init_ckpt", "weights_path"):
        if settings.get(name):
            settings[name] = None
    if "weights" in settings:
        settings["weights"] = "none"  # of the 2D baseline: all weights are in the bundle
    return spec


def _calibrations(folds: Sequence[FoldRun]) -> dict[tuple[int, int], Calibration]:
    predictions = out_of_fold_predictions(folds)
    if is_regression(predictions):
        return {}
    held = held_out(predictions, validation_predictions(folds))
    return {fold_run: fit_calibration(cases) for fold_run, cases in held.items()}


def _stored_calibration(member: dict[str, Any], num_classes: int) -> Calibration | None:
    """Take a member's calibration out of its entry; old bundles have a temperature alone."""
    if "temperature" in member:
        temperature = member.pop("temperature")
        return None if temperature is None else Calibration(1 / temperature, (0.0,) * num_classes)
    stored = member.pop("calibration")
    return Calibration(stored["slope"], tuple(stored["intercepts"])) if stored else None


def _read_reference(path: Path) -> Reference | None:
    return Reference(**read_json(path)) if path.is_file() else None
