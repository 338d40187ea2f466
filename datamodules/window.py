"""The intensity window: which intensities become 0 and 1, and how much tissue that clips."""

from typing import Literal

import numpy as np
from jaxtyping import Float

# Axes: W, H, D = voxels along R, A, S.

WindowOver = Literal["foreground", "everything"]
BACKGROUND_SHARE = 0.25  # of the way from the darkest to the brightest intensity


class EmptyWindowError(ValueError):
    """Both ends of a window are the same intensity."""


def window(
    volume: Float[np.ndarray, "w h d"], percentiles: tuple[float, float], over: WindowOver
) -> tuple[Float[np.ndarray, "w h d"], float]:
    """Map the intensities between two percentiles to 0 and 1, and clip those outside.

    The lower end is always a percentile of the whole field of view: it lies in the background
    where there is one, so that dark tissue (cerebrospinal fluid in T1) is kept. The upper end is
    one of the foreground: over the whole field of view it would lie inside the tissue and cut off
    the more of it, the smaller its share is (at 4 % of the voxels and a percentile of 97.5 the
    upper 63 %).

    Args:
        volume: Intensities.
        percentiles: The lower and the upper one, 0 to 100.
        over: What the upper one is taken over: the 'foreground', see `foreground`, or 'everything'.

    Returns:
        The windowed volume, and the share of the foreground that lies above the window.

    Raises:
        EmptyWindowError: If both ends are the same intensity.
    """
    low = float(np.percentile(volume, percentiles[0]))
    tissue = foreground(volume, low, percentiles)
    measured = tissue if over == "foreground" and tissue.size else volume
    high = float(np.percentile(measured, percentiles[1]))
    if not high > low:
        raise EmptyWindowError(f"{low:g}")
    clipped = float((tissue > high).mean()) if tissue.size else 0.0
    return (np.clip(volume, low, high) - np.float32(low)) / np.float32(high - low), clipped


def foreground(
    volume: Float[np.ndarray, "w h d"], low: float, percentiles: tuple[float, float]
) -> Float[np.ndarray, " n"]:
    """Pick the intensities of the tissue, however small its share and whatever air is.

    Voxels at or below `low` are left out first: a background of one value, zeros around a
    skull-stripped brain or the padding around a CT. Of the others those are tissue that reach a
    quarter of the way from their lower to their upper percentile. This threshold does not depend
    on the share of the tissue, as the volume's mean does, and noise in air stays below it. (BET
    goes a tenth of the way, which half of the air's noise passes at a signal-to-noise ratio of 8:
    Smith 2002, doi 10.1002/hbm.10062.)

    Args:
        volume: Intensities.
        low: The intensity at the lower percentile of all voxels.
        percentiles: The lower and the upper one, 0 to 100.

    Returns:
        The intensities of the tissue; none if no voxel is brighter than `low`.
    """
    above = volume[volume > low]
    if not above.size:
        return above
    darkest, brightest = np.percentile(above, percentiles)
    threshold = darkest + BACKGROUND_SHARE * (brightest - darkest)
    return above[above >= threshold]
