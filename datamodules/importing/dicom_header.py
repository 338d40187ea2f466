"""Read of a DICOM file's header what an import needs: one `Picture` for each of its slices.

A classic file holds one slice; an enhanced one holds many, each with a geometry of its own. Both
become `Picture`s, so that everything after this file is the same for either.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from datamodules.importing.dicom_dataset import (
    number_of,
    numbers_of,
    read_dataset,
    text_of,
    values_of,
)

MAX_FRAMES = 100_000
MAX_COMPRESSION = 1000  # an all-black picture reaches a few hundred
KEYWORDS = [
    *(
        "SOPClassUID",
        "SOPInstanceUID",
        "Modality",
        "ImageType",
        "PatientID",
        "PatientName",
        "PatientBirthDate",
    ),
    *("PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "InstanceNumber", "Rows"),
    *("Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation"),
    *("NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("RescaleSlope", "RescaleIntercept", "EchoTime", "RepetitionTime", "InversionTime"),
    *("TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", "TriggerTime"),
    *("FlipAngle", "SpacingBetweenSlices"),
]
TAGS = {keyword: Tag(keyword) for keyword in KEYWORDS}
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
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "ImageType": ("MRImageFrameTypeSequence", "FrameType"),
}

TILES = (  # where makers write how many slices one picture shows; the creator of the element
    (Tag(0x0065, 0x1050), None, "UIH grid"),
    (Tag(0x0019, 0x100A), "SIEMENS MR HEADER", "Siemens mosaic"),
)
OTHER_IMAGES = ("Enhanced US Volume Storage", "Parametric Map Storage")
NO_IMAGE = (  # raw data and segmentations also of later standards; of Siemens; of Philips
    *("1.2.840.10008.5.1.4.1.1.66", "1.3.12.2.1107.5.9.1", "1.3.46.670589.11.0.0.12."),
)


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
        instance: InstanceNumber as it stands.
        instance_uid: SOPInstanceUID: its file, whatever that is called.
        size: Rows and columns.
        colour: PhotometricInterpretation.
        tiles: What lays all slices of a volume out in this one picture; '' if nothing does.
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
    instance: str
    instance_uid: str
    size: tuple[int, int]
    colour: str
    tiles: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    step: float | None
    slope: float
    intercept: float
    volume: dict[str, str]
    timing: tuple[float | None, ...]


def read_pictures(path: Path) -> list[Picture] | str:
    """Read the slices of one DICOM file, or say what it is if it is no scan.

    Raises:
        ValueError: If the header is cut off, or promises more than the file holds.
    """
    dataset = read_dataset(path)
    meta = dataset.file_meta
    kind = UID(text_of(meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")))
    if other := what_else(kind):
        return other
    values = values_of(dataset, TAGS)
    if values["Rows"] is None:
        if not kind or "Image Storage" in kind.name:
            raise ValueError("its header is cut off or empty")
        return kind.name
    screenshot = "Secondary Capture" in kind.name and "ImagePositionPatient" not in dataset
    if screenshot and "PerFrameFunctionalGroupsSequence" not in dataset:
        return "Secondary Capture Image"
    if not text_of(values["SeriesInstanceUID"]):
        raise ValueError("it has no SeriesInstanceUID")
    groups = _frame_groups(dataset, int(values["NumberOfFrames"] or 1))
    _check_size(path, values, meta.TransferSyntaxUID, len(groups))
    values |= _group_values((dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0])
    values["tiles"] = _tiles(dataset, text_of(values["ImageType"]))
    if len(groups) > 1 and not groups[0]:
        values["ImagePositionPatient"] = None  # that of one frame at best
    return [
        _picture(path, number, values | _group_values(group)) for number, group in enumerate(groups)
    ]


def what_else(kind: UID) -> str | None:
    """What a DICOM object is that holds no image, by its SOP class; None for images."""
    if kind.name == kind and not kind.startswith(NO_IMAGE):  # a class that pydicom does not know
        return None
    if "Image Storage" in kind.name or kind.name in OTHER_IMAGES:
        return None
    return kind.name.removesuffix(" Storage")


def _frame_groups(dataset: Dataset, number: int) -> list[Dataset]:
    """The functional groups of each frame; an empty one where there are none."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not 1 <= number <= MAX_FRAMES or (groups and len(groups) != number):
        raise ValueError(f"it has {number} frames, and positions of {len(groups)} frames")
    return list(groups) or [Dataset()] * number


def _group_values(groups: Dataset) -> dict[str, Any]:
    """What the functional groups of a frame, or of all frames, tell, by the classic keyword."""
    if not len(groups):  # of classic files
        return {}
    return {
        keyword: groups[sequence][0][inner].value
        for keyword, (sequence, inner) in FRAME_SEQUENCES.items()
        if groups.get(sequence) and inner in groups[sequence][0]
    }


def _check_size(path: Path, values: dict[str, Any], syntax: UID, num_frames: int) -> None:
    """Refuse what promises more voxels than its file can hold, before anyone makes room."""
    rows, columns, bits = (int(values[word] or 0) for word in ("Rows", "Columns", "BitsAllocated"))
    promised, size = rows * columns * bits // 8 * num_frames, path.stat().st_size
    packed = syntax.is_encapsulated or syntax == DeflatedExplicitVRLittleEndian
    if promised > size * (MAX_COMPRESSION if packed else 1):
        raise ValueError(
            f"it is cut off: its header promises {promised} bytes of voxels, the file has {size}"
        )


def _tiles(dataset: FileDataset, image_type: str) -> str:
    for tag, maker, what in TILES:
        number = re.search(r"\d+", str(dataset[tag].value)) if tag in dataset else None
        place = Tag(tag.group, tag.elem >> 8)
        is_theirs = maker is None or (place in dataset and dataset[place].value == maker)
        if number and int(number[0]) > 1 and is_theirs:
            return f"{what} of {int(number[0])}"
    return "Siemens mosaic" if "MOSAIC" in image_type else ""


def _picture(path: Path, frame: int, values: dict[str, Any]) -> Picture:
    texts = {keyword: text_of(value) for keyword, value in values.items()}
    samples = int(values["SamplesPerPixel"] or 1)
    return Picture(
        path=path,
        frame=frame,
        patient_id=texts["PatientID"],
        person=(texts["PatientName"].rstrip("^= "), texts["PatientBirthDate"], texts["PatientSex"]),
        age=texts["PatientAge"],
        study_uid=texts["StudyInstanceUID"],
        study_time=f"{texts['StudyDate']} {texts['StudyTime']}".strip(),
        series_uid=texts["SeriesInstanceUID"],
        series_number=texts["SeriesNumber"],
        description=texts["SeriesDescription"],
        modality=texts["Modality"],
        instance=texts["InstanceNumber"],
        instance_uid=texts["SOPInstanceUID"],
        size=(int(values["Rows"] or 0), int(values["Columns"] or 0)),
        colour=texts["PhotometricInterpretation"] if samples == 1 else f"{samples} samples",
        tiles=texts["tiles"],
        position=numbers_of(values["ImagePositionPatient"], 3),
        orientation=numbers_of(values["ImageOrientationPatient"], 6),
        spacing=numbers_of(values["PixelSpacing"], 2),
        step=number_of(values["SpacingBetweenSlices"]),
        slope=1.0 if (slope := number_of(values["RescaleSlope"])) is None else slope,
        intercept=number_of(values["RescaleIntercept"]) or 0.0,
        volume={keyword: texts[keyword] for keyword in VOLUME_KEYWORDS},
        timing=tuple(
            number_of(values[keyword])
            for keyword in ("EchoTime", "RepetitionTime", "InversionTime")
        ),
    )
