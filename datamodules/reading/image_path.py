"""The path of an image that a cohort table names, as the disk has it."""

import errno
import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from datamodules.reading.nifti_bytes import IMPORT_DICOM, SUFFIXES, ScanError


def as_on_disk(folder: Path, image: str) -> str:
    """The name with its accents composed or apart, as the disk has it: macOS takes them apart."""
    spellings = (image, *(unicodedata.normalize(form, image) for form in ("NFC", "NFD")))
    with suppress(OSError, ValueError):  # too long, a zero byte
        return next((name for name in spellings if (folder / name).exists()), image)
    return image


def find_image(folder: Path, image: str) -> Path:
    """Make an image's path absolute, following links.

    Args:
        folder: Folder of the table.
        image: What the cell names.

    Raises:
        ScanError: If there is no such file, or a relative path leaves the folder.
    """
    outside = os.path.normpath(image).split(os.sep)[0] == os.pardir
    if outside and not os.path.isabs(image):
        raise ScanError(
            "climbs out of the table's folder", "Move the table, or write an absolute path"
        )
    try:
        path = (folder / image).resolve(strict=True)
        if not path.is_file():
            raise ScanError("is not a file", "Name a file")
    except (FileNotFoundError, NotADirectoryError) as error:
        fix = "Write / instead of \\" if "\\" in image else "Correct its path"
        raise ScanError(f"does not exist (looked for {folder / image})", fix) from error
    except (RuntimeError, OSError, ValueError) as error:  # a loop of links, too long, a zero byte
        reason = "is a link that leads back to itself" if _loops(error) else f"has no path: {error}"
        raise ScanError(reason, "Name a file") from error
    if not image.lower().endswith(SUFFIXES):
        fix = IMPORT_DICOM if re.search(r"\.(dcm|ima)\b", image.lower()) else "Convert it"
        kinds = "(.nii, .nii.gz, .hdr and .img), .mgz or picture (.png, .jpg, .tif)"
        raise ScanError(f"is not a NIfTI file {kinds}", fix)
    return Path(os.path.abspath(folder / image))


def _loops(error: Exception) -> bool:
    return isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP
