"""Turn a MedMNIST-3D file into a cohort: NIfTI scans, their table, and the official split.

MedMNIST (Yang et al. 2023, Sci Data 10:41) packs a data set into one `.npz` with the arrays
train_images, train_labels, val_images, …, test_labels. It names no patients: each volume counts as
a patient of its own, and if a person gave several volumes, only the official split can keep them
together.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from datamodules.splits import COLUMNS

PARTS = ("train", "val", "test")
Part = tuple[np.ndarray, np.ndarray]


def write_medmnist_cohort(npz: Path, folder: Path, class_names: Sequence[str] = ()) -> Path:
    """Write one NIfTI file per volume, cohort.csv, and splits.csv with one repeat of one fold.

    The file knows neither voxel size nor orientation: volumes keep the order of their axes, and
    headers name no unit, so that preprocessing resizes instead of counting in millimetres.

    Args:
        npz: A MedMNIST-3D file: images (N, W, H, D) uint8, labels (N, 1) or (N,) whole numbers.
        folder: Folder of the tables; the scans go into a folder next to them.
        class_names: Names of the labels 0, 1, …; none keeps the numbers.

    Returns:
        Path of the cohort table.

    Raises:
        ValueError: If the file is missing or unreadable, lacks an array, or has one of another
            shape or type, or if the names do not fit the labels.
    """
    parts = _read(npz)
    classes = _class_of_label(np.concatenate([labels for _, labels in parts.values()]), class_names)
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    rows = []
    for part, (images, labels) in parts.items():
        for index, (voxels, label) in enumerate(zip(images, labels, strict=True)):
            patient = f"{part}-{index:04d}"
            image = f"scans/{patient}.nii.gz"
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / image)
            rows.append([patient, image, classes[int(label)], part])
    table = pd.DataFrame(rows, columns=["patient_id", "image", "label", "part"])
    table.assign(repeat=0, fold=0)[COLUMNS].to_csv(folder / "splits.csv", index=False)
    table.drop(columns="part").to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def _read(npz: Path) -> dict[str, Part]:
    """Images and labels of each part, (N, W, H, D) and (N,)."""
    if not npz.is_file():
        raise ValueError(f"MedMNIST file {str(npz)!r} does not exist. Check the path in NPZ=.")
    wanted = [f"{part}_{what}" for part in PARTS for what in ("images", "labels")]
    try:
        with np.load(npz, allow_pickle=False) as file:
            arrays = {name: file[name] for name in wanted if name in file}
    except Exception as error:
        raise ValueError(
            f"Cannot read {npz}: it is corrupt, or no .npz. Download it again."
        ) from error
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(
            f"{npz} has no array {missing[0]!r}. Give a MedMNIST file with the arrays "
            f"{', '.join(wanted)}."
        )
    parts = {}
    for part in PARTS:
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        first = arrays["train_images"]
        if images.ndim != 4 or not len(images) or images.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{npz}: {part}_images has the shape {images.shape}; a MedMNIST-3D file has "
                "(N, W, H, D), alike in all parts. Use one of the files whose name ends in mnist3d."
            )
        if images.dtype != np.uint8:
            raise ValueError(f"{npz}: {part}_images is {images.dtype}. Convert it to uint8.")
        if labels.shape not in ((len(images), 1), (len(images),)) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{npz}: {part}_labels is {labels.dtype} of shape {labels.shape}. Give one whole "
                f"number for each of the {len(images)} images."
            )
        parts[part] = images, labels.reshape(-1)
    return parts


def _class_of_label(labels: np.ndarray, names: Sequence[str]) -> dict[int, str]:
    found = [int(label) for label in np.unique(labels)]
    if not names:
        return {label: str(label) for label in found}
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"CLASSES {','.join(names)!r} has an empty name or one name twice.")
    if found != list(range(len(names))):
        raise ValueError(
            f"CLASSES {','.join(names)!r} names the labels 0 to {len(names) - 1}, but the file has "
            f"{', '.join(map(str, found))}. Give one name for each, in their order."
        )
    return dict(enumerate(names))
