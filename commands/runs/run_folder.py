"""The folder of a run: what made it, which folds are done, and that nothing is mixed up."""

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from callbacks.whole_checkpoints import BEST_NAME
from commands.runs.main_process import is_main_process
from commands.runs.resume import forget_progress
from datamodules.preprocessing import BEFORE_IT_WAS_A_SETTING
from datamodules.splits import read_splits
from evaluation.predictions import write_table
from files.lock import sole_holder
from files.run_path import run_path
from files.whole_file import remove_leftovers, write_first, write_whole
from files.yaml_text import dump_yaml, read_yaml

MAY_CHANGE = (  # while a run goes on: where things are; table and folds are compared by content
    *("data.init_args.table", "data.init_args.splits.path"),
    *("data.init_args.cache_dir", "data.init_args.num_workers"),
)
PACKAGES = ("torch", "lightning", "torchio", "torchmetrics", "numpy", "scikit-learn", "nibabel")


@dataclass(frozen=True)
class FoldRun:
    """One fold of one repeat, with a folder of its own; finished.json tells that it is done."""

    repeat: int
    fold: int
    folder: Path

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether it needs no more work."""
        return (self.folder / "finished.json").is_file()

    @property
    def best_ckpt(self) -> Path:
        """The checkpoint to predict with."""
        return self.folder / BEST_NAME

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training it at the same time.

        Raises:
            ValueError: If one does.
        """
        with ExitStack() as stack:
            if is_main_process():
                with suppress(FileExistsError):  # a file in the way is named by the next line
                    self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(sole_holder(self.folder / "training.lock"))
                except BlockingIOError as error:
                    raise ValueError(
                        f"{self.folder} is being trained by {error}. Wait until it has finished, "
                        "or stop it. WORKERS=2 starts processes that share the folds of a run."
                    ) from None
            yield

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark it as done and drop what only an interrupted one needs."""
        write_json(facts, self.folder / "finished.json")
        forget_progress(self.folder)


def fold_folder(run: Path, repeat: int, fold: int) -> Path:
    """Folder of one fold of one repeat."""
    return run / f"repeat{repeat}_fold{fold}"


def init_checkpoint(init: str, repeat: int, fold: int) -> Path:
    """Find the checkpoint that a fold starts from.

    Args:
        init: A checkpoint, or a run; a run that was trained fold by fold has one for each.
        repeat: Repeat of the fold.
        fold: The fold.

    Raises:
        ValueError: If there is none.
    """
    path = run_path(init)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"INIT {init!r} is neither a run nor a checkpoint (looked for {path}).")
    fold_by_fold = any(path.glob("repeat*_fold*"))
    folder = fold_folder(path, repeat, fold) if fold_by_fold else path
    if not (folder / "finished.json").is_file():
        raise ValueError(f"INIT {init!r}: the training in {folder} is missing or not finished.")
    return folder / BEST_NAME


def claim(folder: Path, config: dict[str, Any], run: dict[str, Any]) -> bool:
    """Write config.yaml and run.json, or check that the folder was made with the same settings.

    Args:
        folder: Folder of the run.
        config: The resolved configuration.
        run: What run.json shall hold next to command, commit, versions and device; its
            `data_hash` must stay the same when a run is continued.

    Returns:
        Whether the folder had none yet.

    Raises:
        ValueError: If the folder belongs to a run with other settings or other data.
    """
    config_file, run_file = folder / "config.yaml", folder / "run.json"
    remove_leftovers(folder)
    is_first = not config_file.is_file()
    if is_first:
        facts = {
            "name": folder.name,
            "command": shlex.join(["python", *sys.argv]),
            "commit": _commit(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in PACKAGES},
            "device": device_name(),
        }
        write_json(facts | run, run_file, once=True)
        write_text(dump_yaml(config), config_file, once=True)
    old = read_yaml(config_file) | {"data_hash": read_json(run_file)["data_hash"]}
    if changed := _differences(old, config | {"data_hash": run["data_hash"]}):
        raise ValueError(
            f"Run {folder} was made with other settings ({'; '.join(changed[:3])}"
            f"{'; …' * (len(changed) > 3)}). Choose another RUN, or delete the folder."
        )
    return is_first


def give_back(folder: Path) -> None:
    """Let other settings have a run's folder, unless something was trained in it."""
    if not any(folder.rglob("*.ckpt")) and not any(folder.rglob("finished.json")):
        for name in ("config.yaml", "run.json", "splits.csv"):
            (folder / name).unlink(missing_ok=True)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.yaml; what was no setting yet when the run was made has its value of then."""
    config = read_yaml(folder / "config.yaml")
    data = config["data"]["init_args"]
    data["preprocessing"] = BEFORE_IT_WAS_A_SETTING | data["preprocessing"]
    return config


def planned_budget(folder: Path) -> int | None:
    """Voxel budget that a run was planned with, None where there is none yet.

    A run is continued with the plan that it was begun with, also on another device.

    Args:
        folder: Folder of a run, or of runs that were planned together.
    """
    own = folder / "config.yaml"
    for place in [folder] if own.is_file() else sorted(folder.glob("*/")):
        if (place / "config.yaml").is_file():
            return read_config(place)["data"]["init_args"]["preprocessing"].get("voxel_budget")
    return None


def keep_splits(table: pd.DataFrame, folder: Path) -> None:
    """Write a run's splits.csv, or check that the run was begun with the same folds.

    Raises:
        ValueError: If it has others, as a run does that was begun by an earlier commit.
    """
    file = folder / "splits.csv"
    if not file.is_file():
        write_table(table, file)
    elif table.astype(str).values.tolist() != read_splits(file).astype(str).values.tolist():
        raise ValueError(
            f"Run {folder} was begun with other folds than this commit draws. Choose another RUN, "
            "or finish it with the commit that began it (run.json)."
        )


def device_name() -> str:
    """What a network is trained on here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    return json.loads(path.read_text())


def write_json(content: dict[str, Any], path: Path, *, once: bool = False) -> None:
    """Write a JSON object whole or not at all; NaN becomes null."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n"
    write_text(text, path, once=once)


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Turn a JSON object into what reading its file would give; NaN becomes None."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)


def write_text(text: str, path: Path, *, once: bool = False) -> None:
    """Write a file whole or not at all; with `once`, the first of several processes wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (write_first if once else write_whole)(text, path)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted(old.keys() | new.keys()):
        if f"{prefix}{key}" in MAY_CHANGE:
            continue
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            changed += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            changed.append(f"{prefix}{key}: {before!r} there, {now!r} here")
    return changed


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    dirty = " with uncommitted changes" if status.stdout.strip() else ""
    return commit.stdout.strip() + dirty if commit.returncode == 0 else None
