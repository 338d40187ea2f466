"""Check the masks of a cohort once: that each fits its scan, and how large its region is."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from datamodules.checks.cohort_problems import Problem
from datamodules.reading.cohort_table import Scan
from datamodules.reading.mask import box_of, open_mask
from datamodules.reading.nifti import Reading, scan_hash
from datamodules.reading.one_grid import open_image
from files.hashes import digest
from files.whole_file import write_whole

VERSION = 1  # of what is found; raise it when checks change


@dataclass(frozen=True)
class MaskCheck:
    """What the check of a mask found.

    Args:
        fault: Why it cannot be used, '' if it can be.
        start: First voxel of its bounding box along R, A, S, in the scan's own voxels.
        stop: The voxel behind its last one.
    """

    fault: str
    start: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()


def check_masks(scans: Sequence[Scan], reading: Reading, cache_dir: Path) -> list[MaskCheck]:
    """Check the mask of each scan; what was checked before is not read again."""
    return [_check_mask(scan, reading, cache_dir) for scan in scans]


def mask_problems(scans: Sequence[Scan], checks: Sequence[MaskCheck]) -> Iterator[Problem]:
    """List the masks that cannot be used."""
    for scan, check in zip(scans, checks, strict=True):
        if check.fault:
            what, _, fix = check.fault.rstrip(".").partition(". ")
            yield Problem("error", scan.patient_id, scan.mask, what, fix or "Correct it")


def _check_mask(scan: Scan, reading: Reading, cache_dir: Path) -> MaskCheck:
    image = next(path for path in scan.paths if path is not None)
    assert scan.mask_path is not None
    try:
        key = digest(VERSION, scan_hash(image), scan_hash(scan.mask_path), asdict(reading))
    except (OSError, ValueError) as error:
        return MaskCheck(f"Mask {scan.mask_path} cannot be read: {error}")
    kept = cache_dir / "masks" / f"{key}.json"
    try:
        return MaskCheck(**json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):
        found = _examine(scan.mask_path, image, reading)
    if not found.fault:  # a fault names files, which may be called otherwise tomorrow
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(json.dumps(asdict(found)), kept)
    return found


def _examine(mask_path: Path, image: Path, reading: Reading) -> MaskCheck:
    try:
        first, _ = open_image(image, reading)
        mask = open_mask(mask_path, first, image, reading)
    except ValueError as error:
        return MaskCheck(str(error))
    box = box_of(mask, np.zeros(3))
    return MaskCheck("", tuple(side.start for side in box), tuple(side.stop for side in box))
