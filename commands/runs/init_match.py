"""Whether INIT's encoder has met scans prepared as those that it will see now."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from commands.runs.foundations import data_set_warnings
from commands.runs.run_folder import FoldRun, init_checkpoint
from datamodules.cohort import Cohort
from datamodules.preprocessing import Preprocessing
from lightning_modules.transfer import read_checkpoint, read_seen

LARGEST_RATIO = 1.3  # of voxel sizes along an axis
NOT_COMPARED = (
    *("spacing_mm", "spatial_shape", "voxel_budget", "assume_", "fill_nan"),
    *("register_contrasts", "roi_margin_mm", "mask_channel"),
)
Prepared = Mapping[str, Any]  # a checkpoint's `preprocessing`, and `voxel_mm` where it is known


def init_match(init: str, fold_run: FoldRun, cohort: Cohort, run: Path) -> list[str]:
    """Tell how INIT's scans and the cohort's are prepared, and warn where they differ too much.

    Args:
        init: Name of the run to start from.
        fold_run: A fold run that would start from it.
        cohort: Its scans.
        run: Folder of the run.

    Returns:
        A line with both, perhaps a warning.
    """
    checkpoint = read_checkpoint(init_checkpoint(init, fold_run.repeat, fold_run.fold))
    data_sets = read_seen(checkpoint).data_sets
    warnings = data_set_warnings(f"INIT {init}", data_sets, cohort.paths)
    states = [state for state in checkpoint.values() if isinstance(state, Mapping)]
    there = next((state for state in states if "preprocessing" in state), None)
    if there is None:
        return [f"INIT {init} does not tell how its scans were prepared: not compared.", *warnings]
    return [*compare(init, as_prepared(there), cohort.prepared, str(run)), *warnings]


def as_prepared(state: Mapping[str, Any]) -> dict[str, Any]:
    """How the scans of a checkpoint were prepared; older ones keep no voxel size."""
    settings = asdict(Preprocessing.made_with(state["preprocessing"]))
    spacing_mm = None if settings["fit"] == "resize" else settings["spacing_mm"]
    return settings | {"voxel_mm": state.get("voxel_mm", spacing_mm)}


def compare(init: str, there: Prepared, here: Prepared, run: str) -> list[str]:
    """Put into words how two trainings prepare their scans, and warn where they differ.

    Args:
        init: Name of the run to start from.
        there: How it prepared its scans.
        here: How the training that starts from it does.
        run: Folder of that training.

    Returns:
        One line, and a second one that begins with 'warning' if there is something to warn of.
    """
    lines = [f"INIT {init} saw {describe(there)}; this run sees {describe(here)}."]
    differences = [
        f"{name} {_plain(there[name])} there, {_plain(here[name])} here"
        for name in _compared(here)
        if name in there and _plain(there[name]) != _plain(here[name])
    ]
    sizes = {f"INIT {init}": there["voxel_mm"], "this run": here["voxel_mm"]}
    if unknown := [name for name, size in sizes.items() if size is None]:
        lines[0] += f" The voxel size of {' and '.join(unknown)} is unknown: it is not compared."
    else:
        ratio = float(np.exp(np.abs(np.log(np.divide(*sizes.values()))).max()))
        if ratio > LARGEST_RATIO:
            differences.append(f"voxels {ratio:.2f} times as long along an axis")
    if differences:
        lines.append(
            f"warning: INIT {init} was pretrained on scans prepared in another way: "
            f"{'; '.join(differences)}. Its filters may not fit. Pretrain with LIKE={run}, or set "
            "--data.preprocessing to what INIT had."
        )
    return lines


def describe(prepared: Prepared) -> str:
    """Voxel size and settings in one phrase, whatever settings there are."""
    size = prepared["voxel_mm"]
    mm = f"{' × '.join(f'{each:.3g}' for each in size)} mm" if size else "unknown voxel size"
    return ", ".join([mm, *(f"{name} {_plain(prepared[name])}" for name in _compared(prepared))])


def _compared(prepared: Prepared) -> Sequence[str]:
    return [name for name in prepared if not name.startswith((*NOT_COMPARED, "voxel_mm"))]


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "–".join(f"{each:g}" for each in value)
    return "none" if value is None else str(value)
