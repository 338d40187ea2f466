"""Cohorts on disk whose target is a known function of the image; tables of predicted numbers."""

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

SHAPE = (12, 12, 12)


def write_brightness(folder, people, cells=None):
    """Write random scans with a cube as bright as the target says; the target is 20 to 80.

    Args:
        folder: Where to.
        people: A number for each patient.
        cells: Cells of the target column in the place of the true ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["patient_id,image,target,sex"]
    for place, number in enumerate(people):
        generator = np.random.default_rng((number, 1))
        share = generator.random()
        voxels = generator.random(SHAPE, dtype=np.float32)
        voxels[3:9, 3:9, 3:9] += np.float32(3 * share)
        image = nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
        nib.save(image, folder / f"{number}.nii.gz")
        cell = f"{20 + 60 * share:.2f}" if cells is None else cells[place]
        lines.append(f'person{number},{number}.nii.gz,"{cell}",{"FM"[number % 2]}')
    table = folder / "cohort.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def write_ventricles(folder, num_patients, shape=(16, 18, 16)):
    """Write heads with texture, noise and one dark ball; the target is the ball's volume in ml."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    head = (place**2 / np.array([7.5, 8.5, 7.5]) ** 2).sum(-1) < 1
    lines = ["patient_id,image,target"]
    for number in range(num_patients):
        generator = np.random.default_rng((7, number))
        radius = generator.uniform(2.0, 5.0)
        voxels = 0.6 * head
        voxels[((place - generator.normal(0, 0.5, 3)) ** 2).sum(-1) < radius**2] = 0.2
        texture = gaussian_filter(generator.normal(size=shape), 1.2)
        voxels = voxels * (1 + 0.12 * texture / texture.std()) + generator.normal(0, 0.03, shape)
        image = nib.Nifti1Image((1000 * voxels).astype(np.int16), np.diag([4.0, 4.0, 4.0, 1.0]))
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{number}.nii.gz")
        lines.append(f"p{number:02d},{number}.nii.gz,{4 / 3 * np.pi * radius**3 * 0.064:.3f}")
    table = folder / "cohort.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def draw_numbers(num_patients=60, num_repeats=1, noise=1.0, seed=0, per_patient=1, luck=0.0):
    """Draw targets with sd 2 and predictions with normal errors.

    Args:
        num_patients: Number of patients.
        num_repeats: Number of repeats.
        noise: Standard deviation of a patient's error, the same in all repeats.
        seed: Seed.
        per_patient: Scans of a patient.
        luck: Standard deviation of the error of each repeat on its own.
    """
    generator = np.random.default_rng(seed)
    target = np.repeat(generator.normal(10, 2, num_patients), per_patient)
    error = generator.normal(0, noise, len(target))
    names = [f"p{n // per_patient:03d}" for n in range(len(target))]
    repeats = [
        pd.DataFrame(
            {
                "patient_id": names,
                "image": [f"{n}.nii" for n in range(len(target))],
                "repeat": repeat,
                "fold": np.arange(len(target)) // per_patient % 5,
                "target": target,
                "predicted": target + error + generator.normal(0, luck, len(target)),
            }
        )
        for repeat in range(num_repeats)
    ]
    return pd.concat(repeats, ignore_index=True)
