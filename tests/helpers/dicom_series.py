"""Small DICOM series for tests: written by pydicom, with a person in them to look for."""

from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from datamodules.reading.cohort_table import read_cohort_table

ROWS, COLUMNS, SPACING, STEP = 6, 8, (1.5, 0.75), 2.5
PERSON = {
    "PatientName": "Kowalski^Zofia",
    "PatientBirthDate": "19610203",
    "PatientSex": "F",
    "PatientAge": "058Y",
    "PatientAddress": "12 Elm Street",
    "ReferringPhysicianName": "Quux^Doctor",
    "InstitutionName": "St Elsewhere",
    "StudyDescription": "Knee of Zofia",
    "SeriesDescription": "t1_mprage_sag",
    "StudyDate": "20190405",
    "StudyTime": "101112",
    "AccessionNumber": "ACC778899",
}
AXIAL = [1, 0, 0, 0, 1, 0]
OBLIQUE = [0.96, 0.28, 0, -0.28 * 0.8, 0.96 * 0.8, 0.6]  # rows and columns at right angles


def voxels_of(num_slices, seed=0):
    """Stored values, (slices, rows, columns)."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 2000, (num_slices, ROWS, COLUMNS)).astype(np.uint16)


def write_series(
    folder: Path, num_slices=5, series="1.2.3.4", edit=None, orientation=AXIAL, seed=0
):
    """Write one file per slice; `edit(dataset, index)` may change each, or answer False for none.

    Returns:
        The stored values, (slices, rows, columns).
    """
    folder.mkdir(parents=True, exist_ok=True)
    voxels = voxels_of(num_slices, seed)
    for index in range(num_slices):
        dataset = slice_dataset(voxels[index], index, series, orientation)
        if edit is not None and edit(dataset, index) is False:
            continue
        save(dataset, folder / f"im{index:03d}.dcm")
    return voxels


def slice_dataset(plane, index, series="1.2.3.4", orientation=AXIAL) -> FileDataset:
    """Make one slice at index × STEP along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    dataset = _dataset(MRImageStorage, f"{series}.{index + 1}", series)
    dataset.InstanceNumber = index + 1
    dataset.ImageOrientationPatient = [float(cosine) for cosine in orientation]
    dataset.ImagePositionPatient = [
        round(float(number), 6) for number in np.array([-10.0, 20.0, 30.0]) + index * STEP * normal
    ]
    dataset.PixelSpacing = list(SPACING)
    dataset.EchoTime, dataset.RepetitionTime = 3.5, 2000
    _set_voxels(dataset, plane)
    return dataset


def enhanced_dataset(voxels, positions, orientation=AXIAL, series="1.2.9") -> FileDataset:
    """Make one enhanced MR file with a frame per position; slopes differ from frame to frame."""
    dataset = _dataset(EnhancedMRImageStorage, f"{series}.1", series)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), STEP
    plane.ImageOrientationPatient = [float(cosine) for cosine in orientation]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for number, place in enumerate(positions):
        frame, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [float(coordinate) for coordinate in place]
        scale.RescaleSlope, scale.RescaleIntercept = number + 1, -number
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [scale]
        groups.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.NumberOfFrames = len(positions)
    _set_voxels(dataset, voxels)
    return dataset


def save(dataset, path: Path):
    """Write a data set as a file with preamble and meta group."""
    dataset.save_as(path, enforce_file_format=True)


def _dataset(sop_class, sop_uid, series) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series, "1.2.3"
    dataset.Modality, dataset.PatientID, dataset.SeriesNumber = "MR", "HOSP-4711", 7
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    for keyword, value in PERSON.items():
        setattr(dataset, keyword, value)
    return dataset


def _set_voxels(dataset, voxels):
    dataset.Rows, dataset.Columns = voxels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = voxels.astype("<u2").tobytes()


def only_scan(tmp_path):
    (scan,) = read_cohort_table(tmp_path / "out/cohort.csv")
    return nib.load(scan.path)


def set_to(**elements):
    return lambda dataset, index: [setattr(dataset, *element) for element in elements.items()]


def on_slice(position, edit):
    return lambda dataset, index: edit(dataset, index) if index == position else None


def drop(*keywords):
    return lambda dataset, index: [delattr(dataset, keyword) for keyword in keywords] and None


def shift(**by):
    axes = {"x": 0, "y": 1, "z": 2}

    def edit(dataset, index):
        for axis, amount in by.items():
            dataset.ImagePositionPatient[axes[axis]] += (
                amount(index) if callable(amount) else amount
            )

    return edit


def leave_out(*indices):
    return lambda dataset, index: index not in indices
