"""One scan from its path to its probabilities, for a notebook or a script."""

from collections.abc import Mapping
from pathlib import Path

import torch

from commands.bundles.ensemble import Ensemble, Member, fold_model, open_ensemble
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.volumes import Intensity
from lightning_modules.deployment import MeanModel
from lightning_modules.transfer import read_checkpoint


def predict_scan(image: str | Path, source: str | Path) -> dict[str, float]:
    """Preprocess a scan as in training and predict it.

    Args:
        image: A NIfTI file.
        source: A checkpoint, or the folder of a finished run or of an exported bundle, whose
            folds are averaged.

    Returns:
        The probability of each class; they add up to 1. One checkpoint's are not calibrated.

    Raises:
        ValueError: If the scan cannot be read or the source does not classify scans.
    """
    source = Path(source)
    folder = source.parent if source.suffix == ".ckpt" else source
    ensemble = _open_checkpoint(source) if source.suffix == ".ckpt" else open_ensemble(source)
    folds = [fold_model(ensemble, member, folder) for member in ensemble.members]
    volume = torch.from_numpy(preprocess(Path(image), ensemble.preprocessing).volume)
    probs = MeanModel(folds)(volume[None])[0].tolist()
    return dict(zip(ensemble.classes, probs, strict=True))


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
        members=[Member(path.stem, path.name, Intensity(**data["intensity"]), None, None)],
    )
