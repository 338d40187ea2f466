"""What a bundle says of itself: metadata in MONAI's fields, and the run's model card."""

from importlib.metadata import version
from typing import Any

from commands.bundles.ensemble import Ensemble
from evaluation.report.markdown import measures_table
from evaluation.report.model_card import INTENDED_USE, model_card
from evaluation.report.regression import number_measures_table
from evaluation.report.sentences import is_number

PACKAGES = ("lightning", "torchio", "nibabel", "onnxruntime", "safetensors")
BUNDLE_VERSION = "0.1.0"
ONNX_START = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime

from datamodules.preprocessing import Preprocessing, preprocess

bundle = Path("BUNDLE")
spec = json.loads((bundle / "configs/ensemble.json").read_text())
volume = preprocess(Path("scan.nii.gz"), Preprocessing.made_with(spec["preprocessing"])).volume
graphs = [onnxruntime.InferenceSession(path) for path in sorted(bundle.glob("models/*.onnx"))]
inputs = {"volume": volume[np.newaxis].astype(np.float32)}  # (1, 1, R, A, S)
"""
ONNX_EXAMPLE = f"""{ONNX_START}\
probs = np.mean([graph.run(None, inputs)[0][0] for graph in graphs], axis=0)
print(dict(zip(spec["classes"], probs.tolist())))
"""
ONNX_NUMBER = f"""{ONNX_START}\
print(float(np.mean([graph.run(None, inputs)[0] for graph in graphs])))
"""


def bundle_metadata(
    ensemble: Ensemble, metrics: dict[str, Any], run: dict[str, Any], checked: str
) -> dict[str, Any]:
    """Compose metadata.json with the fields of MONAI's bundle specification.

    Args:
        ensemble: What is exported.
        metrics: The run's metrics.json.
        run: The run's run.json.
        checked: A sentence on how the ONNX graphs were checked.
    """
    classes = {str(k): name for k, name in enumerate(ensemble.classes)} or {"0": "value"}
    numbers = ensemble.task == "regression"
    preprocessing = ensemble.preprocessing
    network = ensemble.model["class_path"].rpartition(".")[2]
    window = [0, 1] if preprocessing.window_percentiles else []
    return {
        "version": BUNDLE_VERSION,
        "changelog": {BUNDLE_VERSION: f"Run {run['name']}, commit {run['commit'] or 'unknown'}."},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {package: version(package) for package in PACKAGES},
        "task": "Predict a number from 3D MRI"
        if numbers
        else f"Classify 3D MRI as {' or '.join(ensemble.classes)}",
        "description": f"The mean of {len(ensemble.members)} networks ({network}), one for each "
        "fold of a patient-level cross-validation, each with its own intensity scale and "
        f"{'scale of the target' if numbers else 'calibration'}. {checked}",
        "authors": "Whoever trained the run; not stated.",
        "copyright": "Not stated.",
        "data_source": f"{metrics['num_scans']} scans of {metrics['num_patients']} patients; "
        "not part of the bundle.",
        "data_type": "nifti",
        "image_classes": preprocessing.describe(),
        "label_classes": classes,
        "pred_classes": "One number, in the unit of the target."
        if numbers
        else "One probability per class; they add up to one.",
        "eval_metrics": metrics["mean"],
        "intended_use": INTENDED_USE,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "MR",
                    "num_channels": 1,
                    "spatial_shape": list(preprocessing.spatial_shape or ()),
                    "dtype": "float32",
                    "value_range": window,
                    "is_patch_data": False,
                    "channel_def": {"0": "preprocessed scan, axes R, A, S"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "values" if numbers else "probabilities",
                    "format": "regression" if numbers else "classes",
                    "modality": "n/a",
                    "num_channels": len(classes),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [] if numbers else [0, 1],
                    "is_patch_data": False,
                    "channel_def": classes,
                }
            },
        },
    }


def bundle_inference() -> dict[str, Any]:
    """Compose inference.json: MONAI's ConfigParser builds the network from it."""
    return {
        "bundle_root": ".",
        "device": "cpu",
        "network_def": {
            "_target_": "commands.bundles.ensemble.bundle_network",
            "bundle_root": "@bundle_root",
        },
        "inferer": {"_target_": "SimpleInferer"},
    }


def bundle_readme(
    metrics: dict[str, Any], run: dict[str, Any], config: dict[str, Any], checked: str
) -> str:
    """Compose the bundle's README: the run's model card, its files, and how to use them.

    Args:
        metrics: The run's metrics.json.
        run: The run's run.json.
        config: The run's config.yaml.
        checked: A sentence on how the ONNX graphs were checked.
    """
    if run["init"]:
        run = run | {"init": "another run"}  # its name may be a path
    number = is_number(metrics)
    found, example = ("numbers", ONNX_NUMBER) if number else ("probabilities", ONNX_EXAMPLE)
    output = "scale of the target, from `volume` (B, 1, R, A, S) to `value` (B, 1)"
    if not number:
        output = "calibration, from `volume` (B, 1, R, A, S) to `prob` (B, classes)"
    sections = [
        f"# {run['name']}",
        *(f"## {heading}\n\n{words}" for heading, words in model_card(metrics, run, config)),
        "## Measures\n\nOut-of-fold: each scan predicted by networks that were not trained on its "
        "patient, one for each repeat, before calibration. The mean of all networks, which this "
        "bundle is, was not measured: no patient of the cohort is new to all of them.",
        number_measures_table(metrics) if number else measures_table(metrics),
        "## Files\n\n"
        "- `models/*.safetensors`: weights of each network; `models/*.onnx`: the same with "
        f"intensity scale and {output}.\n"
        "- `configs/ensemble.json`: classes, preprocessing, settings, intensity scales, "
        "calibrations, what the training scans were like.\n"
        "- `configs/metadata.json`, `configs/inference.json`: in MONAI's fields.\n\n"
        f"{checked} The bundle names no patients, so it cannot tell whether a new scan is of a "
        "patient that it was trained on.",
        "## How to use it\n\n"
        "`make predict RUN=./BUNDLE DATA=cohort.csv OUT=folder` in the project that wrote it; it "
        "warns of scans that are unlike the training scans. Or there in Python:\n\n"
        "```python\n"
        "from monai.bundle import ConfigParser\n\n"
        "parser = ConfigParser()\n"
        'parser.read_config("BUNDLE/configs/inference.json")\n'
        'parser["bundle_root"] = "BUNDLE"\n'
        'network = parser.get_parsed_content("network_def")  # preprocessed volumes to '
        f"{found}\n"
        "```\n\n"
        "The ONNX graphs need the preprocessing and nothing else of the project, in this order: "
        "axes turned to R, A, S; resampled to `spacing_mm`; intensities cut at the window and "
        "brought to 0 to 1; cropped, padded or resized to `spatial_shape` "
        "(`configs/ensemble.json`, under `preprocessing`). In another order the "
        f"{found} are wrong. With the project's function for it, a scan is predicted by\n\n"
        f"```python\n{example}```",
    ]
    return "\n\n".join(sections) + "\n"


def calibration_words(ensemble: Ensemble) -> str:
    """Say how far the members' scores are bent; '' where none is calibrated."""
    found = [member.calibration for member in ensemble.members if member.calibration is not None]
    if not found:
        return ""
    slopes = [each.slope for each in found]
    largest = max(max(map(abs, each.intercepts)) for each in found)
    return f"slopes {min(slopes):.2f} to {max(slopes):.2f}, intercepts within ±{largest:.2f}"
