"""Maps of new scans: what speaks for the predicted class, on the voxels of each scan's file."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from commands.bundles.ensemble import Ensemble, fold_model, input_batches
from datamodules.cohort import Cohort
from datamodules.scan_space import on_scan
from lightning_modules.saliency import MapKind, class_map, likeness_if_randomised, likeness_words

NUM_CHECKED = 8  # scans whose maps are compared with those of weights in another order


class MeanMaps:
    """Means of maps and volumes, by class."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[int, np.ndarray, np.ndarray]] = {}

    def add(self, name: str, volume: np.ndarray, heat: np.ndarray) -> None:
        """Count a scan: its class, its volume (C, W, H, D), its map (W, H, D)."""
        number, volumes, heats = self.sums.get(name, (0, np.zeros(()), np.zeros(())))
        self.sums[name] = number + 1, volumes + volume, heats + heat

    def means(self) -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
        """Number of scans, mean volume and mean map of each class, by its name."""
        return {
            name: (number, volumes / number, heats / number)
            for name, (number, volumes, heats) in sorted(self.sums.items())
        }


def write_maps(
    ensemble: Ensemble,
    folder: Path,
    cohort: Cohort,
    predicted: Sequence[str],
    kind: MapKind,
    out: Path,
) -> str:
    """Write one NIfTI for each scan, on its own voxels, and the mean map of each class.

    Args:
        ensemble: What predicts; a map is the mean over its models.
        folder: Where its weights are.
        cohort: The scans.
        predicted: Predicted class of each; of a regression anything.
        kind: Kind of map.
        out: Folder for the maps.

    Returns:
        What they are, and whether they depend on what was learned.
    """
    wanted = [ensemble.classes.index(name) for name in predicted] if ensemble.classes else None
    shape = cohort.preprocessing.spatial_shape
    assert shape is not None
    heats = np.zeros((len(cohort.scans), *shape), np.float32)
    likenesses: list[float] = []
    for place, member in enumerate(ensemble.members):
        fold = fold_model(ensemble, member, folder)
        fold.model.requires_grad_(True)  # class maps need gradients
        for row in range(len(heats)):
            volume, covariates = next(input_batches(cohort, np.array([row])))
            coded = None if covariates is None else fold.code(covariates)
            seen = fold.scale(volume), wanted[row] if wanted else 0, kind, coded
            heat = class_map(fold.model, *seen)
            heats[row] += heat / len(ensemble.members)
            if not place and row < NUM_CHECKED:
                likenesses.append(likeness_if_randomised(heat, fold.model, *seen))
    out.mkdir(parents=True, exist_ok=True)
    means = MeanMaps()
    classes = sorted(set(predicted)) if wanted else ["scan"]
    of_means = [f"mean_{what}_{name}" for name in classes for what in ("scans", "map")]
    names = map_names([*of_means, *(scan.image for scan in cohort.scans)])
    for row, (scan, heat) in enumerate(zip(cohort.scans, heats, strict=True)):
        file = out / names[len(of_means) + row]
        nib.save(on_scan(heat, scan, cohort.preprocessing), file)
        voxels = next(input_batches(cohort, np.array([row])))[0][0].float().numpy()
        means.add(predicted[row] if wanted else "scan", voxels[0], heat)
    affine = np.diag([*np.median(cohort.volumes.spacings_mm, axis=0), 1.0])
    of_classes = [values for _, *pair in means.means().values() for values in pair]
    for name, values in zip(names, of_classes, strict=False):
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), out / name)
    return (
        f"`maps/` has a map of each scan ({kind}, mean over the models, 0 to 1), on the voxels of "
        f"its file, and the mean of each class. {likeness_words(likenesses)}"
    )


def map_names(images: Sequence[str]) -> list[str]:
    """Name the maps of images for one folder: no two alike, even if case does not count.

    Args:
        images: Paths as in the cohort table; of two that would be alike the later gets a number.
    """
    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        for suffix in (".gz", ".nii", ".mgz", ".mgh", ".hdr", ".img"):
            image = image.removesuffix(suffix)
        stem = image.replace("/", "_").lstrip("._")
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(f"{name}.nii.gz")
    return names
