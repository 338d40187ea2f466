"""Synthetic brain volumes for demonstrations and tests: head, ventricles, perhaps a lesion."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

SCALP, SKULL, BRAIN, VENTRICLE = 0.9, 0.15, 0.55, 0.2


def write_synthetic_cohort(
    folder: Path,
    name: str,
    num_patients: int,
    *,
    labelled: bool,
    seed: int = 0,
    small_lesions: bool = False,
) -> Path:
    """Write NIfTI files and their cohort table; half of the patients have a lesion.

    Args:
        folder: Folder of the table; the scans go into a folder next to it.
        name: Name of the cohort; it begins every patient id.
        num_patients: Number of patients, one scan each.
        labelled: Whether the table has a label column, healthy or unhealthy.
        seed: Seed of everything.
        small_lesions: Whether the brains are skull-stripped and their lesions small and faint.

    Returns:
        Path of the table.
    """
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(num_patients):
        generator = np.random.default_rng((seed, index, *name.encode()))
        unhealthy = index % 2 == 1
        voxels, affine = synthetic_brain(generator, lesion=unhealthy, small_lesion=small_lesions)
        patient = f"{name}-{index:03d}"
        image = f"{name}/{patient}.nii.gz"
        nifti = nib.Nifti1Image(voxels, affine)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, folder / image)
        rows.append([patient, image, "unhealthy" if unhealthy else "healthy"])
    table = folder / f"{name}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        width = 3 if labelled else 2
        writer.writerow(["patient_id", "image", "label"][:width])
        writer.writerows(row[:width] for row in rows)
    return table


def synthetic_brain(
    generator: np.random.Generator,
    *,
    lesion: bool,
    spacing_mm: float = 4.0,
    small_lesion: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one head with a bias field and Rician noise.

    Args:
        generator: Source of every choice.
        lesion: Whether a bright lesion of varying size, place and contrast is put into the brain.
        spacing_mm: Nominal voxel size.
        small_lesion: Strip the skull, give the brain a texture, and make the lesion smaller
            (radii 8 to 14 mm) and fainter.

    Returns:
        Voxels, int16 of shape (W, H, D), in R or L, A, S order, and the affine in mm.
    """
    shape = (*(int(size) for size in generator.integers((45, 53), (52, 60))), 40)
    spacing = spacing_mm * generator.uniform(0.95, 1.05, size=3)
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # (W, H, D, 3) in mm
    place -= generator.normal(0, 4, size=3)
    radii = np.array([70.0, 88.0, 68.0]) * generator.normal(1, 0.05, size=3)

    image = np.zeros(shape)
    brain = BRAIN * generator.normal(1, 0.08)
    layers = ((1.0, SCALP), (0.93, SKULL), (0.88, brain))
    for scale, value in layers[2:] if small_lesion else layers:
        image[_inside(place, np.zeros(3), radii * scale)] = value
    size = generator.uniform(0.7, 1.4)
    for side in (-1, 1):
        image[_inside(place, np.array([side * 11.0, 2.0, 6.0]), size * np.array([7, 24, 9]))] = (
            VENTRICLE
        )
    if lesion:
        direction = generator.normal(size=3)
        center = direction / np.linalg.norm(direction) * radii * generator.uniform(0.3, 0.62)
        smaller, fainter = (0.6, 0.7) if small_lesion else (1, 1)
        extent = smaller * generator.uniform(14, 24, size=3)
        image[_inside(place, center, extent)] += fainter * generator.uniform(0.5, 0.9)

    slope = generator.normal(0, 0.15, size=3)
    image *= np.exp((place / radii) @ slope)  # bias field
    noise = generator.normal(0, 0.04, size=(2, *shape))
    inside = image > 0
    if small_lesion:
        texture = gaussian_filter(generator.normal(size=shape), 1.5)
        image *= 1 + 0.08 * texture / texture.std()
    image = np.hypot(image + noise[0], noise[1])
    if small_lesion:
        image *= inside  # skull-stripped: exactly 0 outside
    affine = np.diag([*spacing, 1.0])
    if generator.random() < 0.5:  # radiological order
        image, affine[0, 0] = image[::-1], -affine[0, 0]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return (image * generator.uniform(400, 1200)).astype(np.int16), affine


def _inside(place: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    return (((place - center) / radii) ** 2).sum(axis=-1) < 1
