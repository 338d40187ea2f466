"""Carry a pretrained encoder over to a new model, with what it has seen: patients and scans."""

import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.parts.lora import with_updates

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What weights have seen in all trainings that led to them.

    Args:
        patients: Their ids.
        scans: By what their scans are recognised, one entry for each training; the datamodule
            makes and reads them.
        data_sets: Names of public data sets that encoders of other people were trained on.
    """

    patients: set[str] = field(default_factory=set)
    scans: list[dict[str, Tensor]] = field(default_factory=list)
    data_sets: set[str] = field(default_factory=set)


def load_encoder(encoder: nn.Module, checkpoint_path: str | Path) -> None:
    """Copy the weights of a checkpoint's encoder into `encoder`, strictly.

    A checkpoint may have more convolutions than the encoder wants; the first ones are taken.

    Args:
        encoder: The module to fill; every one of its weights must be in the checkpoint.
        checkpoint_path: Checkpoint of any LightningModule that has an `encoder`.

    Raises:
        ValueError: If the file cannot be read, has no encoder or seen patients, lacks a weight, or
            has one of another shape.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    wanted = encoder.state_dict()
    found = {
        name.removeprefix("encoder."): weight
        for name, weight in checkpoint["state_dict"].items()
        if name.startswith("encoder.")
    }
    found = with_updates(found, wanted)
    fill_encoder(encoder, found, checkpoint_path)
    blocks = {name.split(".")[0] for name in wanted}
    if dropped := [name for name in found if name.split(".")[0] in blocks and name not in wanted]:
        raise ValueError(
            f"Checkpoint {checkpoint_path} has an encoder weight {dropped[0]!r}, which the model "
            "lacks. Give the model the norm that the encoder was pretrained with."
        )
    logger.info("Loaded %d encoder weights from %s", len(encoder.state_dict()), checkpoint_path)


def fill_encoder(encoder: nn.Module, found: dict[str, Tensor], path: str | Path) -> None:
    """Copy weights that were found in a file into `encoder`, strictly.

    Args:
        encoder: The module to fill.
        found: Weights by their names in `encoder`; what is not asked for is left.
        path: Where they were found.

    Raises:
        ValueError: If a weight of the encoder is missing or has another shape.
    """
    wanted = encoder.state_dict()
    found = _for_channels(found, wanted)
    if not found.keys() & wanted.keys():
        raise ValueError(
            f"Checkpoint {path} has no encoder in common with the model. Give the model the "
            "backbone and kernel_size that the encoder was pretrained with."
        )
    for name, weight in wanted.items():
        if name not in found:
            raise ValueError(
                f"Checkpoint {path} has no encoder weight {name!r}. Give the model the "
                "backbone, depth, norm and lora_rank that the encoder was pretrained with."
            )
        if found[name].shape != weight.shape:
            raise ValueError(
                f"Encoder weight {name!r} is {tuple(found[name].shape)} in {path}, but "
                f"{tuple(weight.shape)} in the model. Give both the same backbone, filters and "
                "kernel_size, and for vit the same spatial_shape."
            )
    encoder.load_state_dict({name: found[name] for name in wanted})


def _for_channels(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repeat filters of one channel for a network of several, scaled to sums of the same size."""
    fitted = dict(found)
    for name, weight in wanted.items():
        there = found.get(name)
        if there is None or there.ndim != weight.ndim or there.ndim < 3:
            continue
        channels = weight.shape[1]
        if there.shape[1] == 1 < channels and there[:, 0].shape == weight[:, 0].shape:
            fitted[name] = there.expand_as(weight) / channels
            logger.info(
                "%s was trained on 1 channel; repeated for %d channels and divided by %d.",
                name,
                channels,
                channels,
            )
    return fitted


def read_seen(checkpoint: Mapping[str, Any]) -> Seen:
    """What the weights of a checkpoint have seen; older ones keep less of their scans."""
    if "seen_scans" in checkpoint:
        scans = list(checkpoint["seen_scans"])
    else:
        states = (state for state in checkpoint.values() if isinstance(state, Mapping))
        scans = [{"marks": state["scan_marks"]} for state in states if "scan_marks" in state]
    data_sets = set(checkpoint.get("seen_data_sets", ()))
    return Seen(set(checkpoint["seen_patients"]), scans, data_sets)


def check_start(init_ckpt: str | None, data: Any) -> Seen:
    """Look up what the weights that a training starts from have seen.

    Args:
        init_ckpt: Checkpoint that it starts from; None is random weights.
        data: Datamodule of the training.

    Raises:
        ValueError: If they have met a patient or scan that they will be validated or tested on.
    """
    if init_ckpt is None:
        return Seen()
    seen = read_seen(read_checkpoint(init_ckpt))
    refuse_overlap(seen.patients, data.held_out_patients, init_ckpt)
    if seen.scans:
        data.cohort.refuse_seen_scans(seen.scans, data.held_out_patients, init_ckpt)
    return seen


def refuse_overlap(seen: set[str], held_out: set[str], checkpoint_path: str | Path) -> None:
    """Raise if an encoder has met a patient that it will be validated or tested on."""
    if met := sorted(seen & held_out):
        raise ValueError(
            f"The encoder {checkpoint_path} was pretrained on {len(met)} patients of this fold's "
            f"validation or test part: {', '.join(met[:5])}{', …' * (len(met) > 5)}. Pretrain fold "
            "by fold (SPLITS=), or rename the patients if they are other people."
        )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint without running code from it.

    Raises:
        ValueError: If it is missing, unreadable, or not one of this project's.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"Checkpoint {path} does not exist. Correct INIT=, or train the run again."
        ) from error
    except Exception as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise  # too many open files: no fault of this one
        raise ValueError(f"Checkpoint {path} cannot be read: it is corrupt or not safe.") from error
    if isinstance(checkpoint, dict) and "ledger" in checkpoint:
        checkpoint["seen_patients"] = checkpoint.pop("ledger")  # its name until 0.1
    if not isinstance(checkpoint, dict) or not {"state_dict", "seen_patients"} <= checkpoint.keys():
        raise ValueError(f"Checkpoint {path} has no weights with the patients that they have seen.")
    return checkpoint
