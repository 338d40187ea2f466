"""Read of a DICOM file's header what an import needs: one `Picture` for each of its slices.

A classic file holds one slice; an enhanced one holds many, each with a geometry of its own. Both
become `Picture`s, so that everything after this file is the same for either.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

MAX_INFLATED_BYTES = 2**27
MAX_FRAMES = 100_000
MAX_COMPRESSION = 1000  # an all-black picture reaches a few hundred
KEYWORDS = [
    *("SOPClassUID", "Modality", "ImageType", "PatientID", "PatientName", "PatientBirthDate"),
    *("PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "InstanceNumber", "Rows"),
    *("Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation"),
    *("NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("RescaleSlope", "RescaleIntercept", "EchoTime", "RepetitionTime", "InversionTime"),
    *("TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", "TriggerTime"),
    *(
        "FlipAngle",
        "SpacingBetweenSlices",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
    ),
]
VOLUME_KEYWORDS = [  # what tells the volumes of one series apart, the likeliest first
    *("EchoTime", "InversionTime", "DiffusionBValue", "TemporalPositionIdentifier"),
    *("TriggerTime", "FlipAngle", "ImageType", "AcquisitionNumber"),
]
FRAME_SEQUENCES = {  # where an enhanced file keeps what a classic one has at its top
    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    "RescaleSlope": ("PixelValueTransformationSequence", "RescaleSlope"),
    "RescaleIntercept": ("PixelValueTransformationSequence", "RescaleIntercept"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "ImageType": ("MRImageFrameTypeSequence", "FrameType"),
}


@dataclass(frozen=True, slots=True)  # there may be a million
class Picture:
    """One slice: a classic file, or a frame of an enhanced one. Texts are '' where absent.

    Args:
        path: Its file.
        frame: Its place in the file, from 0.
        patient_id: PatientID, the name by which a hospital knows the patient.
        person: Name, birth date and sex: read to tell two people apart, written nowhere.
        age: PatientAge as it stands.
        study_uid: StudyInstanceUID: one visit.
        study_time: StudyDate and StudyTime, which sort as text.
        series_uid: SeriesInstanceUID: one scan.
        series_number: SeriesNumber as it stands.
        description: SeriesDescription, free text.
        modality: Modality, such as MR.
        image_type: ImageType, such as ORIGINAL, PRIMARY, LOCALIZER.
        instance: InstanceNumber as it stands.
        size: Rows and columns.
        colour: PhotometricInterpretation.
        position: Centre of the first voxel in mm, LPS (left, posterior, superior); None if absent.
        orientation: Directions of a row and of a column, LPS; None if absent.
        spacing: Distance in mm between rows and between columns; None if absent.
        step: Distance in mm to the next slice, as the header says it; None if absent.
        slope: RescaleSlope, 1 if absent.
        intercept: RescaleIntercept, 0 if absent.
        volume: What may tell this slice's volume from others of its series, by DICOM keyword.
        timing: Echo, repetition and inversion time in ms; None where absent.
    """

    path: Path
    frame: int
    patient_id: str
    person: tuple[str, str, str]
    age: str
    study_uid: str
    study_time: str
    series_uid: str
    series_number: str
    description: str
    modality: str
    image_type: str
    instance: str
    size: tuple[int, int]
    colour: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    step: float | None
    slope: float
    intercept: float
    volume: dict[str, str]
    timing: tuple[float | None, ...]


def read_pictures(path: Path) -> list[Picture]:
    """Read the slices of one DICOM file; none if it is a report or the like.

    Raises:
        ValueError: If the header is cut off, or promises more than the file holds.
    """
    dataset = read_dataset(path, KEYWORDS)
    kind = UID(_text(dataset.file_meta, "MediaStorageSOPClassUID") or _text(dataset, "SOPClassUID"))
    if "Rows" not in dataset:
        if not kind or "Image Storage" in kind.name:
            raise ValueError("its header is cut off or empty")
        return []
    screenshot = "Secondary Capture" in kind.name and "ImagePositionPatient" not in dataset
    if screenshot and "PerFrameFunctionalGroupsSequence" not in dataset:
        return []
    if not _text(dataset, "SeriesInstanceUID"):
        raise ValueError("it has no SeriesInstanceUID")
    frames = _frames(dataset)
    _check_size(path, dataset, len(frames))
    return [_picture(path, number, dataset, frame) for number, frame in enumerate(frames)]


def read_dataset(path: Path, keywords: Sequence[str]) -> FileDataset:
    """Read some elements of a DICOM file, with or without the preamble."""
    _refuse_deflate_bomb(path)
    dataset = pydicom.dcmread(path, specific_tags=list(keywords), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # no preamble, hence no such group
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _refuse_deflate_bomb(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(2**16)
        if DeflatedExplicitVRLittleEndian.encode() not in head:
            return
        file.seek(144 + int.from_bytes(head[140:144], "little"))  # behind the file's meta group
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        if len(inflate.decompress(file.read(), MAX_INFLATED_BYTES)) == MAX_INFLATED_BYTES:
            raise ValueError("it inflates to more than 128 MiB")


def _frames(dataset: Dataset) -> list[Dataset]:
    """The functional groups of each frame; an empty one where there are none."""
    number = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not 1 <= number <= MAX_FRAMES or (groups and len(groups) != number):
        raise ValueError(f"it has {number} frames, and positions of {len(groups)} frames")
    return list(groups) or [Dataset()] * number


def _check_size(path: Path, dataset: FileDataset, num_frames: int) -> None:
    """Refuse what promises more voxels than its file can hold, before anyone makes room."""
    rows, columns, bits = (
        int(dataset.get(word) or 0) for word in ("Rows", "Columns", "BitsAllocated")
    )
    promised, size = rows * columns * bits // 8 * num_frames, path.stat().st_size
    syntax = dataset.file_meta.TransferSyntaxUID
    packed = syntax.is_encapsulated or syntax == DeflatedExplicitVRLittleEndian
    if promised > size * (MAX_COMPRESSION if packed else 1):
        raise ValueError(
            f"it is cut off: its header promises {promised} bytes of voxels, the file has {size}"
        )


def _picture(path: Path, number: int, dataset: Dataset, frame: Dataset) -> Picture:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

    def source(keyword: str) -> tuple[Dataset, str]:
        group, inner = FRAME_SEQUENCES.get(keyword, ("", ""))
        for place in (frame, shared):
            if place.get(group) and inner in place[group][0]:
                return place[group][0], inner
        return dataset, keyword

    def text(keyword: str) -> str:
        return _text(*source(keyword))

    def numbers(keyword: str, length: int) -> tuple[float, ...] | None:
        found = _numbers(*source(keyword))
        return found if found and len(found) == length else None

    def number_or(keyword: str, default: float | None) -> float | None:
        return (numbers(keyword, 1) or (nan,))[0] if text(keyword) else default

    slope, intercept = number_or("RescaleSlope", 1.0), number_or("RescaleIntercept", 0.0)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    assert slope is not None
    assert intercept is not None
    return Picture(
        path=path,
        frame=number,
        patient_id=text("PatientID"),
        person=(text("PatientName"), text("PatientBirthDate"), text("PatientSex")),
        age=text("PatientAge"),
        study_uid=text("StudyInstanceUID"),
        study_time=f"{text('StudyDate')} {text('StudyTime')}".strip(),
        series_uid=text("SeriesInstanceUID"),
        series_number=text("SeriesNumber"),
        description=text("SeriesDescription"),
        modality=text("Modality"),
        image_type=text("ImageType"),
        instance=text("InstanceNumber"),
        size=(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)),
        colour=text("PhotometricInterpretation") if samples == 1 else f"{samples} samples",
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        spacing=numbers("PixelSpacing", 2),
        step=number_or("SpacingBetweenSlices", None),
        slope=slope,
        intercept=intercept,
        volume={keyword: text(keyword) for keyword in VOLUME_KEYWORDS},
        timing=tuple(
            number_or(keyword, None) for keyword in ("EchoTime", "RepetitionTime", "InversionTime")
        ),
    )


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...] | None:
    """The values of an element if each of them is a finite number."""
    try:
        values = dataset.get(keyword)
        one = isinstance(values, int | float | str)
        numbers = tuple(float(value) for value in ([values] if one else values))
    except (TypeError, ValueError):
        return None
    return numbers if all(map(isfinite, numbers)) else None
