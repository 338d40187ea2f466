"""One scan from its path to its probabilities, for a notebook or a script."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from commands.bundles.ensemble import Ensemble, Member, fold_model, open_ensemble
from datamodules.covariates import Coding, read_covariates
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.target import TargetScale
from datamodules.volumes import Intensity
from lightning_modules.deployment import MeanModel
from lightning_modules.transfer import read_checkpoint


def predict_scan(
    image: str | Path | Sequence[str | Path | None],
    source: str | Path,
    covariates: Mapping[str, str | float] | None = None,
    mask: str | Path | None = None,
) -> dict[str, float]:
    """Preprocess a scan as in training and predict it.

    Args:
        image: A NIfTI file; of a run with contrasts one for each, None where it is missing.
        source: A checkpoint, or the folder of a finished run or of an exported bundle, whose
            folds are averaged.
        covariates: Value of each covariate, where the run uses some.
        mask: File of the scan's mask, where the run uses one.

    Returns:
        The probability of each class; they add up to 1. One checkpoint's are not calibrated. Of a
        regression the number alone, named 'value'.

    Raises:
        ValueError: If the scan cannot be read or the source does not classify such scans.
    """
    source = Path(source)
    folder = source.parent if source.suffix == ".ckpt" else source
    ensemble = _open_checkpoint(source) if source.suffix == ".ckpt" else open_ensemble(source)
    folds = [fold_model(ensemble, member, folder) for member in ensemble.members]
    images = [image] if isinstance(image, str | Path) else list(image)
    if len(images) != max(len(ensemble.contrasts), 1):
        wanted = ", ".join(ensemble.contrasts) or "one image"
        raise ValueError(
            f"{source} was trained on {wanted}; {len(images)} images are given. Give one for each, "
            "None where it is missing."
        )
    paths = [None if each is None else Path(each) for each in images]
    mask_path = None if mask is None else Path(mask)
    volume = torch.from_numpy(preprocess(paths, ensemble.preprocessing, mask_path).volume)
    coded = None
    if columns := ensemble.members[0].coding.columns:
        cells = {name: [str(value)] for name, value in (covariates or {}).items()}
        coded = torch.from_numpy(read_covariates(cells, columns, "of this scan", 1).values)
    outputs = MeanModel(folds)(volume[None], coded)[0].tolist()
    return dict(zip(ensemble.classes or ["value"], outputs, strict=True))


def _open_checkpoint(path: Path) -> Ensemble:
    checkpoint = read_checkpoint(path)
    states = (state for state in checkpoint.values() if isinstance(state, Mapping))
    data = next((state for state in states if "classes" in state), None)
    if data is None or "class_path" not in checkpoint:
        raise ValueError(
            f"Checkpoint {path} does not know its classes, preprocessing and model. Give one of "
            "`make finetune`, or the folder of its run."
        )
    return Ensemble(
        classes=data["classes"],
        preprocessing=Preprocessing.made_with(data["preprocessing"]),
        model={
            "class_path": checkpoint["class_path"],
            "init_args": dict(checkpoint.get("hyper_parameters", {})),
        },
        columns={},
        members=[
            Member(
                path.stem,
                path.name,
                Intensity.of(data["intensity"]),
                calibration=None,
                reference=None,
                coding=Coding.of(data.get("covariates")),
                target_scale=TargetScale.of(data.get("target_scale")),
            )
        ],
        contrasts=data.get("contrasts", []),
    )
