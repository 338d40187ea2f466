"""Bring the images of one row to one grid: the contrasts of a patient, and a mask."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torchio as tio
from jaxtyping import Float

from datamodules.reading.nifti import Geometry, Reading, ScanError, read_volume

# Axes: W, H, D = voxels along R, A, S.

SAME_PLACE = 0.05  # voxels by which corners of one grid may differ, from rounding in headers
LARGEST_MM, LARGEST_DEGREES = 50.0, 30.0  # of a registration that can be right
SEED = 0


def open_image(path: Path, reading: Reading) -> tuple[tio.ScalarImage, Geometry]:
    """Read an image and turn its axes to R, A, S.

    Raises:
        ValueError: If it cannot be used.
    """
    try:
        scan = read_volume(path, reading)
    except ScanError as fault:
        raise ValueError(f"Scan {path} {fault}") from fault
    image = tio.ScalarImage(tensor=scan.voxels[np.newaxis], affine=scan.geometry.affine)
    return tio.ToCanonical()(image), scan.geometry


def is_same_grid(image: tio.Image, first: tio.Image) -> bool:
    """Whether two images have their voxels at the same places."""
    if image.spatial_shape != first.spatial_shape:
        return False
    corners = np.array([[0, 0, 0, 1], [*(np.array(first.spatial_shape) - 1), 1]]).T
    apart = np.linalg.inv(first.affine) @ (image.affine @ corners - first.affine @ corners)
    return bool(np.abs(apart[:3]).max() <= SAME_PLACE)


def to_grid(
    image: tio.ScalarImage, first: tio.ScalarImage, path: Path, *, register: bool = False
) -> Float[np.ndarray, "w h d"]:
    """Interpolate an image linearly at the voxels of another one, where their affines say.

    Args:
        image: The image to move.
        first: Whose grid it gets.
        path: File of `image`, for messages.
        register: Look for the rigid movement by which both match best; otherwise the affines are
            believed.

    Returns:
        Intensities on the grid of `first`; what lies outside of `image` has its smallest one.

    Raises:
        ValueError: If they lie apart, or a registration finds no movement that can be right.
    """
    if is_same_grid(image, first) and not register:
        return image.data[0].numpy()
    moving, fixed = image.as_sitk(), first.as_sitk()
    air = float(image.data.min())
    movement = _registered(moving, fixed, path) if register else sitk.Transform()
    moved = sitk.Resample(moving, fixed, movement, sitk.sitkLinear, air)
    voxels = sitk.GetArrayFromImage(moved).transpose()
    if voxels.min() == voxels.max():
        raise ValueError(
            f"Scan {path} does not overlap with the first contrast of its row: see that both are "
            "of one patient and session, and that their headers are right."
        )
    return np.ascontiguousarray(voxels)


def _registered(moving: sitk.Image, fixed: sitk.Image, path: Path) -> sitk.Transform:
    """The rigid movement by which the mutual information is highest (Mattes et al. 2003)."""
    moving, fixed = (sitk.Cast(each, sitk.sitkFloat32) for each in (moving, fixed))
    centre = fixed.TransformContinuousIndexToPhysicalPoint([s / 2 for s in fixed.GetSize()])
    start = sitk.Euler3DTransform()
    start.SetCenter(centre)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start)  # is moved in place
    try:
        before = method.MetricEvaluate(fixed, moving)
        method.Execute(fixed, moving)
    except RuntimeError as error:
        if "overlap" not in str(error):
            raise
        raise ValueError(
            f"Scan {path} hardly overlaps with the first contrast of its row and cannot be "
            "registered to it: see that both are of one patient and session, and that their "
            "headers are right, or leave the row out."
        ) from error
    degrees = np.degrees([start.GetAngleX(), start.GetAngleY(), start.GetAngleZ()])
    millimetres = np.linalg.norm(start.GetTranslation())
    better = method.GetMetricValue() <= before  # of minus the mutual information
    if not better or millimetres > LARGEST_MM or np.abs(degrees).max() > LARGEST_DEGREES:
        raise ValueError(
            f"Scan {path} could not be registered to the first contrast of its row: the best "
            f"movement found is {millimetres:.0f} mm and {np.abs(degrees).max():.0f} degrees. See "
            "that both are of one patient, or leave the row out."
        )
    return start
