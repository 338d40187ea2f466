"""`export`: a finished run as a folder in the manner of a MONAI bundle, checked while written."""

import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from commands.bundles.ensemble import (
    SPEC,
    Ensemble,
    as_spec,
    fold_model,
    input_batches,
    open_ensemble,
)
from commands.bundles.int8 import Int8
from commands.bundles.model_card import bundle_inference, bundle_metadata, bundle_readme
from commands.runs.run_folder import read_config, read_json, run_path, write_json, write_text
from lightning_modules.deployment import onnx_difference, write_onnx

TOLERANCE = 1e-4
NUM_CHECKED = 8  # scans


def export(args: list[str]) -> None:
    """Export the run that the command line names."""
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else a dozen lines for each fold
    auto_cli(_export, args=args, prog="main.py export")


def _export(
    run: str = "", out: str | None = None, cache_dir: str = "cache", int8: bool = False
) -> None:
    """Write a bundle: weights, ONNX graphs, metadata and a model card.

    Args:
        run: Name or folder of a finished run.
        out: Folder for the bundle, which must not exist; None is `bundle` in the run's folder.
        cache_dir: Folder for preprocessed volumes; may be deleted at any time.
        int8: Also write the graphs in 8 bit, for small devices; needs the run's scans.
    """
    if not run:
        raise ValueError("No run is given to export: set RUN=name.")
    source = run_path(run)
    folder = source / "bundle" if out is None else Path(out).expanduser()
    if folder.exists():
        raise ValueError(f"The folder {folder} exists already. Choose another OUT, or delete it.")
    ensemble = open_ensemble(source)
    if not (source / "metrics.json").is_file():
        raise ValueError(f"Run {source} has no metrics.json: run its command again.")
    metrics = read_json(source / "metrics.json")
    small = _int8(ensemble, source, cache_dir) if int8 else None
    facts = read_json(source / "run.json") | {"num_fold_runs": len(ensemble.members)}
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "models").mkdir(parents=True)
    checked = _write_models(ensemble, source, unfinished / "models", cache_dir, small)
    write_json(as_spec(ensemble), unfinished / SPEC)
    metadata = bundle_metadata(ensemble, metrics, facts, checked)
    write_json(metadata, unfinished / "configs/metadata.json")
    write_json(bundle_inference(), unfinished / "configs/inference.json")
    readme = bundle_readme(metrics, facts, read_config(source), checked)
    write_text(readme, unfinished / "docs/README.md")
    unfinished.rename(folder)
    print(f"{checked} Bundle: {folder}")


def _int8(ensemble: Ensemble, source: Path, cache_dir: str) -> Int8:
    cohort = ensemble.cohort(read_config(source)["data"]["init_args"]["table"], cache_dir)
    try:
        assert cohort.volumes is not None  # they are read here
    except ValueError as error:
        raise ValueError(
            f"--int8 needs the training scans of the run, which are not at hand: {error}"
        ) from error
    return Int8(cohort, ensemble)


def _write_models(
    ensemble: Ensemble, source: Path, folder: Path, cache_dir: str, small: Int8 | None
) -> str:
    """Write each fold as .safetensors and .onnx; say how the graphs were checked."""
    assert ensemble.preprocessing.spatial_shape is not None
    volumes, covariates, what = _scans_to_try(ensemble, source, cache_dir)
    largest = 0.0
    for member in tqdm(ensemble.members, desc="Export", leave=False):
        fold = fold_model(ensemble, member, source)
        weights = {name: each.contiguous() for name, each in fold.model.state_dict().items()}
        (folder / f"{member.name}.safetensors").write_bytes(save(weights))
        path = folder / f"{member.name}.onnx"
        write_onnx(fold, ensemble.preprocessing.spatial_shape, path)
        difference = onnx_difference(fold, path, volumes, covariates)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"The ONNX graph of {member.name} differs from PyTorch by {difference:.2g} on "
                f"{what}, more than {TOLERANCE:g}: this network cannot be exported."
            )
        largest = max(largest, difference)
        if small is not None:
            small.write(member, path)
    more = f" {small.words()}" if small is not None else ""
    return f"Checked: ONNX differs from PyTorch by at most {largest:.1g} on {what}.{more}"


def _scans_to_try(
    ensemble: Ensemble, source: Path, cache_dir: str
) -> tuple[Tensor, Tensor | None, str]:
    """Some of the run's own scans where they are at hand, otherwise random numbers."""
    cohort = ensemble.cohort(read_config(source)["data"]["init_args"]["table"], cache_dir)
    try:
        rows = np.arange(min(NUM_CHECKED, len(cohort.scans)))
        assert cohort.covariates is not None  # both read the whole table
        cohort.scans = cohort.scans[:NUM_CHECKED]
        batches = list(input_batches(cohort, rows))
        given = [covariates for _, covariates in batches if covariates is not None]
        volumes = torch.cat([volume for volume, _ in batches]).float()
        what = f"{len(rows)} scans of the run's cohort"
        return volumes, torch.cat(given) if given else None, what
    except ValueError:  # the table or a scan is missing
        assert ensemble.preprocessing.spatial_shape is not None
        generator = torch.Generator().manual_seed(0)
        member = ensemble.members[0]
        shape = (NUM_CHECKED, len(member.intensity.mean), *ensemble.preprocessing.spatial_shape)
        volumes = torch.rand(shape, generator=generator)
        known = torch.rand(NUM_CHECKED, len(member.coding.columns), generator=generator)
        what = "random volumes (the run's scans are missing)"
        return volumes, known if member.coding.columns else None, what
