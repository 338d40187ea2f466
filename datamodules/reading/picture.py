"""A 2D picture as a volume of one slice: PNG, JPEG and TIFF, all checked."""

import io
import warnings as python_warnings
from typing import Any

import numpy as np

from datamodules.reading.geometry import Geometry, Warnings
from datamodules.reading.nifti_bytes import MAX_BYTES, ByteSource, ScanError

FORMATS = ("PNG", "JPEG", "TIFF")
GREY = {"1", "L", "I;16", "I;16B", "I;16L", "I", "F"}
COLOURED = 10  # of 255, from the darkest to the brightest colour of a pixel: not by compression
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF
SMALLEST = 3  # pixels


def read_picture(source: ByteSource) -> tuple[np.ndarray, Geometry]:
    """Read a picture: its right is R, its top is A, and it is one voxel thick.

    The pixel size is not known, whatever dots per inch the file names: these are a printer's.
    Colours become grey as in Rec. 601.

    Args:
        source: The file, at its beginning.

    Returns:
        The pixels as they are stored, (W, H, 1), and where they are.

    Raises:
        ScanError: If it is damaged, or not one picture of one number or three a pixel.
    """
    content = bytes(source.take(MAX_BYTES))
    warnings: Warnings = []
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # of what is odd in its remarks
        pixels = _grey(_open(content), warnings)
    if min(pixels.shape) < SMALLEST:
        raise ScanError(f"has {' × '.join(map(str, pixels.shape[::-1]))} pixels", "Leave it out")
    voxels = np.asfortranarray(pixels[::-1].T[..., np.newaxis])
    affine = np.eye(4)
    affine[:3, 3] = (1 - np.array(voxels.shape)) / 2
    size = (1.0, 1.0, 1.0)
    shape = voxels.shape[0], voxels.shape[1], 1
    return voxels, Geometry(shape, affine, size, False, True, warnings)


def _open(content: bytes) -> Any:
    """Decode a picture, upright."""
    from PIL import Image, ImageOps  # few cohorts need it

    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        _refuse_kind(picture)
        picture.verify()  # checksums, where there are any
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        picture.load()
        return ImageOps.exif_transpose(picture)
    except ScanError:
        raise
    except Image.DecompressionBombError as error:
        raise ScanError("has too many pixels to be a scan", "Crop or shrink it") from error
    except Image.UnidentifiedImageError as error:
        raise ScanError("is no PNG, JPEG or TIFF picture", "Convert or replace it") from error
    except Exception as error:  # whatever a damaged file makes of the decoders
        raise ScanError(f"cannot be decoded ({error})", "Copy or export it again") from error


def _refuse_kind(picture: Any) -> None:
    """Raise for what would be read as something else than it is."""
    if (pages := getattr(picture, "n_frames", 1)) > 1:
        fix = "Save one page a file; slices of one volume belong into a NIfTI file"
        raise ScanError(f"holds {pages} pictures", fix)
    decoder = [str(word) for tile in picture.tile for word in np.ravel(tile[3])]
    if picture.mode not in GREY and any(";16" in word for word in decoder):
        raise ScanError("has 16 bits a colour, which would be cut to 8", "Save it as grey")
    if picture.mode not in GREY | {"LA", "P", "PA", "RGB", "RGBA"}:
        raise ScanError(f"has pixels of the kind {picture.mode}", "Save it as grey or RGB")
    tags = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I") and tags.get(PHOTOMETRIC) == 0:
        raise ScanError("stores white as 0", "Save it with black as 0")
    if picture.mode == "I" and tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        raise ScanError("has 32 bits a pixel without sign", "Save it with 16 bits")


def _grey(picture: Any, warnings: Warnings) -> np.ndarray:
    """One number for each pixel, (H, W) from the top."""
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA"):
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            raise ScanError("has transparent pixels, of unknown brightness", "Save it without")
    if picture.mode in GREY - {"1"}:
        return np.asarray(picture)
    colours = np.asarray(picture.convert("RGB"))
    if np.ptp(colours, axis=2).max() > COLOURED:
        what = "has colours, of which the brightness alone is read"
        warnings.append((what, "See that no marks or writing are drawn on it"))
    return np.asarray(picture.convert("L"))
