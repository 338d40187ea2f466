"""Check scans in parallel and keep what was found by the content of their files."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from datamodules.batches.workers import in_order, usable_cores
from datamodules.checks.leakage import Signature, shrink, sign
from datamodules.checks.likeness import KeptPicture, Picture
from datamodules.reading.nifti import Reading, ScanFile, Volume, scan_files, scan_hash
from datamodules.reading.nifti_bytes import MAX_BYTES, ScanError, suffix_of
from files.hashes import FileKey, digest, file_key, known_hashes
from files.open_files import refuse_too_many
from files.whole_file import whole_file

VERSION = 2  # of what is found; raise it when checks change
SLICE_SIZE = 96


@dataclass(frozen=True)
class ScanFacts:
    """What a scan is, in the order of its own axes.

    Args:
        shape: Voxels along the axes.
        spacing_mm: Voxel size along the axes.
        orientation: Where the axes point to, such as 'RAS'.
        dtype: Type of the stored numbers.
        percentiles: 0th, 1st, 50th, 99th and 100th percentile of the intensities.
        spacing_known: Whether the header says the voxel size.
        spacing_doubtful: Whether it says 1 × 1 × 1 without a unit.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    dtype: str
    percentiles: tuple[float, float, float, float, float]
    spacing_known: bool
    spacing_doubtful: bool


@dataclass(frozen=True)
class ScanCheck:
    """What the check of a scan found.

    Args:
        fault: Why the scan cannot be used and how to fix it; None if it can be.
        warnings: What is odd about it, and how to fix that.
        facts: What it is, if it can be used.
        signature: By what it is found again, if it can be used.
        slices: Its middle sagittal, coronal and axial slice, uint8; of a picture the last alone.

    What was kept in the cache has its pictures there, not in memory, however many scans there are.
    """

    fault: tuple[str, str] | None
    warnings: list[tuple[str, str]]
    facts: ScanFacts | None = None
    signature: Signature | None = None
    slices: tuple[Picture, ...] = ()


def check_scans(paths: Sequence[Path], reading: Reading, cache_dir: Path) -> list[ScanCheck]:
    """Read and check every scan that was not checked before.

    Args:
        paths: The scans.
        reading: What is done where a file leaves something open.
        cache_dir: Folder of the cache; may be deleted at any time.

    Returns:
        One check per scan.
    """
    known = {
        place: check
        for place, path in enumerate(paths)
        if all(map(_is_hashed, scan_files(path)))
        and (check := _load(_kept_file(path, scan_hash(path), reading, cache_dir)))
    }
    todo = [place for place in range(len(paths)) if place not in known]
    check_at = partial(_check_at, paths, reading, cache_dir)
    found = in_order(check_at, todo, usable_cores())
    pause = 0.5 if sys.stderr.isatty() else 30  # in a log file, a line now and then
    bar = tqdm(total=len(todo), desc="Checking scans", disable=len(todo) < 10, mininterval=pause)
    with bar, threadpool_limits(1):  # threads would wait for each other over few numbers
        for place, (check, hashes) in zip(todo, found, strict=True):
            known[place] = check
            known_hashes.update(hashes)  # a worker's are not in this process
            bar.update()
    return [known[place] for place in range(len(paths))]


def check_scan(path: Path, reading: Reading, cache_dir: Path) -> ScanCheck:
    """Check one scan, opened once; never raises for what a file may hold.

    The check of the same bytes is taken from the cache, or kept there.
    """
    try:
        with ScanFile(path) as file:
            if file.size > MAX_BYTES:
                return _examine(file, reading)
            kept = _kept_file(path, file.content_hash(), reading, cache_dir)
            if (check := _load(kept)) is None:
                check = _examine(file, reading)
                _save(check, kept)
                check = _load(kept) or check
            return check
    except ScanError as fault:
        return ScanCheck((fault.what, fault.fix), [])
    except OSError as error:
        refuse_too_many(error)
        return ScanCheck((f"cannot be read ({error.strerror})", "Copy it again"), [])


def _examine(file: ScanFile, reading: Reading) -> ScanCheck:
    try:
        volume = file.read(reading)
    except ScanError as fault:
        return ScanCheck((fault.what, fault.fix), [])
    except MemoryError:
        return ScanCheck(("does not fit into memory", "Crop or resample it"), [])
    sample = volume.voxels.ravel(order="K")[:: 1 + volume.voxels.size // 2**20]
    low, median, high = (float(value) for value in np.percentile(sample, [1, 50, 99]))
    ends = float(volume.voxels.min()), float(volume.voxels.max())
    geometry = volume.geometry
    facts = ScanFacts(
        geometry.shape,
        geometry.spacing_mm,
        geometry.orientation,
        volume.dtype,
        (ends[0], low, median, high, ends[1]),
        geometry.spacing_known,
        geometry.spacing_doubtful,
    )
    return ScanCheck(None, geometry.warnings, facts, sign(volume), _middle_slices(volume))


def _check_at(
    paths: Sequence[Path], reading: Reading, cache_dir: Path, place: int
) -> tuple[ScanCheck, dict[FileKey, str]]:
    """The check of one of the scans, and the hashes of its files."""
    check = check_scan(paths[place], reading, cache_dir)
    keys = [file_key(file) for file in scan_files(paths[place]) if _is_hashed(file)]
    return check, {key: known_hashes[key] for key in keys}


def _is_hashed(file: Path) -> bool:
    try:
        return file_key(file) in known_hashes
    except OSError:
        return False


def _middle_slices(volume: Volume) -> tuple[np.ndarray, ...]:
    """Sagittal, coronal and axial slice through the middle, up or front at the top.

    Of a picture, one voxel thick, only the last.
    """
    to_ras = nib.io_orientation(volume.geometry.affine)
    voxels = nib.apply_orientation(volume.voxels, to_ras)
    spacing = np.empty(3)
    spacing[to_ras[:, 0].astype(int)] = volume.geometry.spacing_mm
    low, high = np.percentile(voxels[::2, ::2, ::2], [1, 99])
    slices = []
    for axis in range(3) if voxels.shape[2] > 1 else [2]:
        plane = np.take(voxels, voxels.shape[axis] // 2, axis)
        extent = np.array(plane.shape) * np.delete(spacing, axis)
        sizes = np.maximum(np.rint(extent / extent.max() * SLICE_SIZE), 1).astype(int)
        small = (shrink(plane, sizes) - low) / ((high - low) or 1)
        slices.append(np.rint(255 * np.clip(small, 0, 1)).astype(np.uint8).T[::-1])
    return tuple(slices)


def _kept_file(path: Path, hashed: str, reading: Reading, cache_dir: Path) -> Path:
    """Where the check of these bytes is kept."""
    key = digest(VERSION, hashed, suffix_of(path).lower(), asdict(reading))
    return cache_dir / f"checks-{VERSION}" / f"{key}.npz"


def _save(check: ScanCheck, file: Path) -> None:
    signature = check.signature
    arrays: dict[str, Any] = {}
    facts: dict[str, Any] = {"fault": check.fault, "warnings": check.warnings}
    if signature is not None and check.facts is not None:
        facts |= {"facts": asdict(check.facts), "shape": signature.shape}
        facts |= {name: getattr(signature, name) for name in ("slope", "intercept", "thumbnail_mm")}
        arrays = {"blocks": signature.blocks, "thumbnail": signature.thumbnail}
        arrays |= {f"slice{axis}": plane for axis, plane in enumerate(check.slices)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished, unfinished.open("wb") as stream:
        np.savez(stream, facts=np.array(json.dumps(facts)), **arrays)


def _load(file: Path) -> ScanCheck | None:
    """Open a kept check; None if there is none that can be read."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            fault = tuple(facts["fault"]) if facts["fault"] else None
            warnings = [(what, fix) for what, fix in facts["warnings"]]
            if "facts" not in facts:
                return ScanCheck(fault, warnings)
            signature = Signature(
                tuple(facts["shape"]),
                arrays["blocks"],
                facts["slope"],
                facts["intercept"],
                KeptPicture(file, "thumbnail"),
                tuple(facts["thumbnail_mm"]),
            )
            names = [name for name in arrays if name.startswith("slice")]
            slices = tuple(KeptPicture(file, name) for name in names)
    except Exception:  # whatever a damaged file may cause: the scan is checked again
        return None
    lists: dict[str, Any] = facts["facts"]
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in lists.items()
    }
    return ScanCheck(fault, warnings, ScanFacts(**kept), signature, slices)
