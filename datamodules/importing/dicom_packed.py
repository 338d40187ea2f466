"""Unpack the JPEGs of a DICOM file by SimpleITK, in a process that a corrupt one may break."""

import os
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import SecondaryCaptureImageStorage

MAX_UNPACKING_BYTES = 2**29
PIXEL_KEYWORDS = [
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation"),
]
JPEG_BEGINS, JPEG_ENDS = (b"\xff\xd8", b"\xff\x4f"), b"\xff\xd9"  # of all kinds of JPEG


class Unpacker:
    """SimpleITK in a process of its own, which a corrupt JPEG may break or fill."""

    def __init__(self) -> None:
        self._process: ProcessPoolExecutor | None = None

    def __call__(self, path: Path) -> np.ndarray:
        """Voxels of a packed file; RuntimeError or MemoryError if that is not possible."""
        if self._process is None:
            self._process = ProcessPoolExecutor(1, get_context("spawn"), initializer=_limit_process)
        try:
            return self._process.submit(_unpack, path).result()
        except BrokenProcessPool:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.shutdown()
            self._process = None


def packed_frames(dataset: FileDataset) -> list[bytes]:
    """The packed bytes of each frame.

    Raises:
        ValueError: If a frame is missing, or is a JPEG without its end mark.
    """
    number = int(dataset.get("NumberOfFrames") or 1)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=number))
    cut_off = [frame[:2] in JPEG_BEGINS and JPEG_ENDS not in frame for frame in frames]
    if len(frames) != number or any(cut_off):
        raise ValueError(f"{len(frames)} frames, {sum(cut_off)} cut off")
    return frames


def unpack_each(
    dataset: FileDataset, packed: Sequence[bytes], unpacker: Unpacker
) -> list[np.ndarray]:
    """Stored values of each frame, by way of files of one frame without geometry and slope."""
    alone = Dataset()
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            alone[keyword] = dataset[keyword]
    alone.SOPClassUID, alone.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    frames = []
    with TemporaryDirectory() as folder:
        for frame in packed:
            alone.PixelData = encapsulate([frame])
            alone["PixelData"].VR = "OB"
            alone["PixelData"].is_undefined_length = True
            alone.save_as(path := Path(folder) / "frame.dcm", enforce_file_format=True)
            frames.append(unpacker(path))
    return frames


def _limit_process() -> None:
    """Limit memory and output, so that a corrupt JPEG ends this process alone."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_UNPACKING_BYTES, MAX_UNPACKING_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _unpack(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))
