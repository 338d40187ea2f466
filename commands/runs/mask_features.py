"""What a mask tells of a scan by itself: volume, shape, and brightness inside, by SimpleITK."""

import numpy as np
import pandas as pd
import SimpleITK as sitk

from datamodules.cohort import Cohort
from datamodules.reading.cohort_table import Scan, read_cohort_table
from datamodules.reading.mask import head, open_mask
from datamodules.reading.nifti import Reading
from datamodules.reading.one_grid import open_image, to_grid

SHAPE = ("PhysicalSize", "Perimeter", "Elongation", "Flatness", "Roundness")
BRIGHTNESS = ("Mean", "Median", "StandardDeviation", "Skewness", "Kurtosis")


def has_masks(cohort: Cohort) -> bool:
    """Whether every row of the table names a mask."""
    return all(scan.mask for scan in cohort.scans)


def mask_features(cohort: Cohort) -> pd.DataFrame:
    """Measure the mask of every scan, one row each.

    Returns:
        Volume in mm³, surface in mm² and shape of the mask; of each contrast that all scans have,
        the brightness inside, as a multiple of the head's mean.

    Raises:
        ValueError: If a mask does not fit its scan.
    """
    scans = read_cohort_table(cohort.table, cohort.columns, cohort.contrasts, masks=True)
    rows = [_features(scan, cohort.preprocessing.reading) for scan in scans]
    return pd.DataFrame(rows).dropna(axis=1)


def _features(scan: Scan, reading: Reading) -> dict[str, float]:
    place = next(at for at, path in enumerate(scan.paths) if path is not None)
    path = scan.paths[place]
    assert path is not None
    first, _ = open_image(path, reading)
    mask = open_mask(scan.mask_path, first, path, reading)
    drawn = sitk.GetImageFromArray(mask.transpose().astype(np.uint8))
    drawn.SetSpacing(first.spacing)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(drawn)
    found = {name: getattr(shape, f"Get{name}")(1) for name in SHAPE}
    for contrast, other in enumerate(scan.paths):
        if other is None:
            continue
        image = first if contrast == place else open_image(other, reading)[0]
        voxels = to_grid(image, first, other)
        bright = sitk.GetImageFromArray((voxels / voxels[head(voxels)].mean()).transpose())
        bright.CopyInformation(drawn)
        inside = sitk.LabelIntensityStatisticsImageFilter()
        inside.Execute(drawn, bright)
        found |= {f"{name}_{contrast}": getattr(inside, f"Get{name}")(1) for name in BRIGHTNESS}
    return found
