"""LIKE: pretrain on scans that are prepared as those of the run that will start from it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from commands.runs.early_check import read_settings
from datamodules.cohort import Cohort
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Columns
from files.run_path import run_path
from files.yaml_text import read_yaml

OF_ITS_SCANS = (  # what its files lack, and have next to an image
    *("assume_orientation", "assume_spacing_mm", "fill_nan"),
    *("register_contrasts", "roi_margin_mm", "mask_channel"),
)
ANY_SIZE = 10**9  # a patch costs the same whatever the volume it is cut from


def with_target(args: list[str]) -> list[str]:
    """Put what LIKE stands for behind the first YAML file, so that later settings win.

    Raises:
        ValueError: If it is neither a run nor a cohort table.
    """
    like = read_settings(args).get("like")
    if like in (None, "null"):
        return args
    settings = {"data": {"preprocessing": target_settings(read_target(like))}}
    place = 0
    for position, argument in enumerate(args):
        if argument in ("-c", "--config"):
            place = position + 2
        elif argument.startswith(("-c", "--config=")):
            place = position + 1
        if place:
            break
    return [*args[:place], "-c", json.dumps(settings), *args[place:]]


def target_settings(target: dict[str, Any]) -> dict[str, Any]:
    """What a pretraining takes of its target's completed preprocessing.

    In millimetres the shape is left to the collection's own scans; without them, the same number
    of voxels is what comes nearest to the same voxel size.
    """
    settings = {name: value for name, value in target.items() if name not in OF_ITS_SCANS}
    if settings["fit"] == "crop_or_pad" and settings["spacing_mm"] is not None:
        settings |= {"spatial_shape": None, "voxel_budget": ANY_SIZE}
    return settings


def read_target(like: str) -> dict[str, Any]:
    """The completed preprocessing of a run, or of a cohort as it would be planned by default.

    Raises:
        ValueError: If there is neither.
    """
    config = run_path(like) / "config.yaml"
    if config.is_file():
        settings = read_yaml(config)
        return asdict(Preprocessing.made_with(settings["data"]["init_args"]["preprocessing"]))
    if not Path(like).is_file():
        raise ValueError(
            f"LIKE {like!r} is neither a run nor a cohort table (looked for {config}). Give the "
            "run that shall start from this pretraining, or its table."
        )
    cohort = Cohort(like, Columns(), Preprocessing(), "cache")
    cohort.plan()
    return asdict(cohort.preprocessing)
