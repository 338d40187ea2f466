"""A small cohort on disk, for fixtures that outlive one test."""

import nibabel as nib
import numpy as np

SHAPE = (12, 12, 12)


def write_people(folder, people, labelled):
    """Write scans and their table; odd people are unhealthy: a bright cube in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["patient_id,image" + ",label" * labelled]
    for number in people:
        voxels = np.random.default_rng(number).random(SHAPE, dtype=np.float32)
        voxels[4:8, 4:8, 4:8] += 2.0 * (number % 2)
        image = nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
        nib.save(image, folder / f"{number}.nii.gz")
        label = f",{'unhealthy' if number % 2 else 'healthy'}" if labelled else ""
        lines.append(f"person{number},{number}.nii.gz{label}")
    table = folder / "cohort.csv"
    table.write_text("\n".join(lines) + "\n")
    return table
