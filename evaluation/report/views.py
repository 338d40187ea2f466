"""Small pictures of a scan: sagittal, coronal and axial slices, with a heat map next to them."""

import base64
import io

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image

HEIGHT = 112  # pixels of the longest side of a slice
GAP = 4
SPEAKS, RAISES = ("speak", "for the predicted class"), ("raise", "the predicted number")
HEAT_SHARE = 0.45  # of the heat map's colour, at its strongest


def view(
    volume: Float[np.ndarray, "c w h d"],
    spacing_mm: tuple[float, float, float],
    heat: Float[np.ndarray, "w h d"] | None = None,
    *,
    shows: tuple[str, str] = SPEAKS,
) -> tuple[str, str]:
    """Draw three orthogonal slices, through the heat map's strongest bright voxel or the middle.

    Each contrast has a row; one that is missing has none. The patient's right is on the left,
    anterior on the left of the sagittal slice, superior up.

    Args:
        volume: The contrasts, voxels along R, A, S; NaN where one is missing.
        spacing_mm: Voxel sizes.
        heat: Values from 0 to 1 at the same places; a last row shows them in colour over the
            first contrast, unless all are 0.
        shows: What the places of the heat map do, as verb and object.

    Returns:
        A WebP picture as data URI, and words for those who cannot see it.
    """
    asked, (verb, what) = heat is not None, shows
    greys = [_grey(each) for each in volume if not np.isnan(each).any()]
    grey = greys[0]
    if heat is not None and heat.max() > 0:
        centre = np.unravel_index(int((heat * grey).argmax()), heat.shape)  # not in the dark
    else:
        heat, centre = None, tuple(size // 2 for size in grey.shape)
    rows = [np.repeat(each[..., None], 3, axis=-1) for each in greys]
    if heat is not None:
        colour = colormaps["inferno"](heat)[..., :3]
        weight = HEAT_SHARE * np.sqrt(heat)[..., None]
        rows.append(rows[0] * (1 - weight) + colour * weight)
    extent = np.array(grey.shape) * spacing_mm
    picture = np.concatenate([_row(row, centre, HEIGHT * extent / extent.max()) for row in rows])
    buffer = io.BytesIO()
    Image.fromarray((255 * picture).round().astype(np.uint8)).save(buffer, "WEBP", quality=75)
    words = "Sagittal, coronal and axial slice through voxel {}, {}, {} (R, A, S)".format(*centre)
    words = "The picture" if grey.shape[2] == 1 else words
    if heat is not None:
        words += f"; below, what {verb}s {what}"
    elif asked:
        words += f"; no map: nothing was found to {verb} {what}"
    return data_uri(buffer.getvalue(), "image/webp"), words


def data_uri(content: bytes, kind: str) -> str:
    """Put a file into a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _grey(volume: np.ndarray) -> np.ndarray:
    low, high = np.percentile(volume, [1, 99])
    return np.clip((volume - low) / max(high - low, 1e-6), 0, 1)


def _row(volume: np.ndarray, centre: tuple, pixels: np.ndarray) -> np.ndarray:
    """Three slices of (W, H, D, 3) side by side on black, each `pixels` large along R, A, S.

    A picture, one voxel thick, is shown as its file has it.
    """
    right, front, up = (max(round(size), 1) for size in pixels)
    x, y, z = centre
    slices = [  # rows go down: from superior, or from anterior
        (volume[x, ::-1, ::-1].transpose(1, 0, 2), (front, up)),
        (volume[::-1, y, ::-1].transpose(1, 0, 2), (right, up)),
        (volume[::-1, ::-1, z].transpose(1, 0, 2), (right, front)),
    ]
    if volume.shape[2] == 1:
        slices = [(volume[:, ::-1, 0].transpose(1, 0, 2), (right, front))]
    height = max(size[1] for _, size in slices)
    parts = []
    for pixels_of_slice, size in slices:
        image = Image.fromarray((255 * pixels_of_slice).round().astype(np.uint8))
        part = np.zeros((height + GAP, size[0] + GAP, 3))
        part[: size[1], : size[0]] = np.asarray(image.resize(size, Image.Resampling.BICUBIC)) / 255
        parts.append(part)
    return np.concatenate(parts, axis=1)
