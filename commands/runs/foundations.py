"""Encoders that other people trained on many scans, by name: `INIT=hf:NAME`.

What stands here was looked up in November 2026 on the pages that `source` names. What these do not
tell is None. No weights were downloaded for it: that a file fits is checked when it is loaded.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.hashes import hash_file
from files.run_path import did_you_mean

PREFIX = "hf:"


@dataclass(frozen=True)
class Foundation:
    """An encoder of other people.

    Args:
        source: Page that tells of it.
        repository: Its repository on the Hugging Face hub; None where it is not there.
        file: Name of its file of weights.
        revision: Commit of the repository; None takes the newest.
        hash: Hash of the file (files/hashes.py); None is not compared.
        backbone: The network, by the classifier's name for it.
        prepared: How its training's scans were prepared; yours should be alike.
        licence: Of the weights; None where none is stated.
        commercial: Whether the licence allows commercial use.
        data_sets: Public data sets it was trained on; None where they are not listed.
    """

    source: str
    repository: str | None
    file: str
    backbone: str
    prepared: str
    licence: str | None
    commercial: bool
    data_sets: tuple[str, ...] | None
    revision: str | None = None
    hash: str | None = None


def _medicalnet(depth: int) -> Foundation:
    repository = f"TencentMedicalNet/MedicalNet-Resnet{depth}"
    return Foundation(
        source=f"https://huggingface.co/{repository}",
        repository=repository,
        file=f"resnet_{depth}_23dataset.pth",
        backbone=f"resnet{depth}",
        prepared="scans of several organs, CT and MRI",
        licence="MIT",
        commercial=True,
        data_sets=None,
    )


FOUNDATIONS = {
    "medicalnet-resnet10": _medicalnet(10),
    "medicalnet-resnet18": _medicalnet(18),
    "medicalnet-resnet50": _medicalnet(50),
    "brainiac": Foundation(
        source="https://huggingface.co/eugenehp/brainiac",  # a copy; the authors' is no hub's
        repository="eugenehp/brainiac",
        file="backbone.safetensors",
        backbone="vit-tokens",
        prepared="brain MRI of several contrasts, 96 × 96 × 96 voxels",
        licence="Mass General Brigham, non-commercial academic research",
        commercial=False,
        data_sets=None,
    ),
    "3d-neuro-simclr": Foundation(
        source="https://github.com/emilykaczmarek/3D-Neuro-SimCLR",
        repository=None,
        file="simclr_3d_brain_foundation.tar of release v1.0.0",
        backbone="resnet18-b",
        prepared="T1, without skull, rigidly registered to MNI152 by TurboPrep",
        licence=None,
        commercial=False,
        data_sets=(
            *("ADNI", "AOMIC", "CoRR", "DLBS", "GSP", "HABS-HD", "MCSA", "NIFD", "PPMI"),
            *("SALD", "SOOP"),
        ),
    ),
}


def is_foundation(init: str | None) -> bool:
    """Whether INIT names an encoder of other people."""
    return init is not None and init.startswith(PREFIX)


def find_foundation(init: str) -> Foundation:
    """Look an encoder up by its name.

    Args:
        init: The name, with `hf:` before it.

    Raises:
        ValueError: If there is none of that name.
    """
    name = init.removeprefix(PREFIX)
    if name not in FOUNDATIONS:
        known = ", ".join(PREFIX + each for each in FOUNDATIONS)
        raise ValueError(f"INIT {init!r} is none of {known}.{did_you_mean(name, FOUNDATIONS)}")
    return FOUNDATIONS[name]


def weights_file(init: str) -> Path:
    """Find the weights of an encoder in the hub's cache, or download them.

    Raises:
        ValueError: If they are not on the hub, cannot be downloaded, or are not those expected.
    """
    foundation = find_foundation(init)
    by_hand = "Download them yourself and set --model.weights_path to the file."
    if foundation.repository is None:
        raise ValueError(
            f"The weights of {init} are not on the Hugging Face hub. They are {foundation.file} at "
            f"{foundation.source}. {by_hand}"
        )
    from huggingface_hub import hf_hub_download  # takes a second, and few runs need it

    try:
        path = Path(
            hf_hub_download(foundation.repository, foundation.file, revision=foundation.revision)
        )
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"The weights of {init} could not be downloaded from {foundation.source} ({why}). "
            f"{by_hand}"
        ) from error
    if foundation.hash and foundation.hash != hash_file(path):
        raise ValueError(f"{path} has not the hash that {init} is known by. {by_hand}")
    return path


def start_from_foundation(config: Any) -> None:
    """Have the model of a run start from the encoder that INIT names, if it names one.

    Args:
        config: The parsed settings; backbone and weights_path are set.

    Raises:
        ValueError: If there is no such encoder, its licence needs a yes, or the model is another.
    """
    init = config.init
    if not is_foundation(init):
        return
    foundation = find_foundation(init)
    if not (foundation.commercial or config.accept_licence):
        raise ValueError(
            f"The weights of {init} may not be used commercially, or no licence is stated "
            f"({foundation.licence or 'none'}; {foundation.source}). If that suits you, set "
            "--accept_licence=true."
        )
    settings = config.model.get("init_args") or {}
    if "weights_path" not in settings:
        raise ValueError(f"{config.model.class_path} cannot start from {init}: drop INIT.")
    if settings["backbone"] not in ("mctl", foundation.backbone):
        raise ValueError(
            f"INIT {init} is a {foundation.backbone}, not a {settings['backbone']}: leave "
            "--model.backbone out."
        )
    settings["backbone"] = foundation.backbone
    settings["weights_path"] = settings["weights_path"] or str(weights_file(init))


def foundation_lines(init: str, paths: Iterable[str]) -> list[str]:
    """Tell whose weights INIT names, and warn where they may have seen the cohort.

    Args:
        init: The name, with `hf:` before it.
        paths: Paths of the cohort's table and scans.
    """
    foundation = find_foundation(init)
    licence = foundation.licence or "none stated"
    lines = [
        f"INIT {init} ({foundation.source}), licence: {licence}. It saw {foundation.prepared}."
    ]
    if foundation.data_sets is None:
        lines.append(
            f"warning: which data sets {init} has seen is not known here. Make sure that your "
            "patients are not among them."
        )
    else:
        lines += data_set_warnings(init, foundation.data_sets, paths)
    return lines


def data_set_warnings(init: str, data_sets: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Warn of data sets that weights have seen and that the cohort's paths name.

    Args:
        init: What the weights are called.
        data_sets: Names of data sets.
        paths: Paths of the cohort's table and scans.
    """
    text = "\n".join(paths).lower()
    met = []
    for name in sorted(data_sets):
        parts = re.split(r"[^a-z0-9]+", name.lower())
        if re.search(rf"(?<![a-z0-9]){'[^a-z0-9]?'.join(parts)}(?![a-z])", text):
            met.append(name)
    if not met:
        return []
    return [
        f"warning: {init} was trained on {', '.join(met)}, which the paths of this cohort name: it "
        "may have seen your test patients, and figures may be too good."
    ]
