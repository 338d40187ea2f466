"""What one DICOM series may hold in the place of one volume: people, scouts, times, contrasts."""

import re
from collections import defaultdict
from collections.abc import Sequence
from math import isclose

import numpy as np

from datamodules.importing.dicom_header import VOLUME_KEYWORDS, Picture

MIN_SLICES = 3
SCOUT = r"scout|locali[sz]er|3.?pl(ane)?.?loc|(?<![a-z])(survey|loc)(?![a-z])|topogram|smartbrain"
FEW_SLICES = f"fewer than {MIN_SLICES} slices"
CONTRAST_KEYWORDS = ("EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ImageType")
SPLIT = (
    "Convert it with dcm2niix, which parts them (a volume of a 4D file: "
    "nibabel.load(FILE).slicer[..., 0]), and write the volume that you want into the table"
)


def why_skipped(pictures: Sequence[Picture], wanted: str) -> str | None:
    """Say why a series is not worth importing, whatever is in it; None if it is.

    Args:
        pictures: The series.
        wanted: Pattern of the descriptions that are asked for.
    """
    if all("LOCALIZER" in picture.volume["ImageType"] for picture in pictures):
        return "a localiser"
    if re.search(SCOUT, pictures[0].description, re.I) and not re.search(SCOUT, wanted, re.I):
        return "a scout by its description (SERIES='*scout*', or like it, imports scouts)"
    if len(pictures) < MIN_SLICES and not pictures[0].tiles:
        return FEW_SLICES
    return None


def refuse_mixture(pictures: Sequence[Picture]) -> None:
    """Raise ValueError if a series is of several patients or studies, of none, or of tiles."""
    first = pictures[0]
    for other in pictures:
        persons = zip(first.person, other.person, strict=True)
        if other.patient_id != first.patient_id or any(a != b for a, b in persons if a and b):
            raise ValueError(
                f"two patients are in it ({names(first, other)}). Export each of them again"
            )
        if other.study_uid != first.study_uid:
            raise ValueError(
                f"two studies are in it ({names(first, other)}). Export each of them again"
            )
    if first.tiles:
        raise ValueError(
            f"many slices in one picture ({first.tiles}, {first.path.name!r}). Convert it with "
            "dcm2niix -z y -o OUT SRC and write the NIfTI file into the table"
        )
    if not first.patient_id:
        raise ValueError(
            "it has no PatientID. Take the name of its folder below SRC (ARGS=--patient_folder=1), "
            "or write one into its files (dcmodify -i PatientID=…)"
        )


def why_repeated(ordered: Sequence[Picture], near: np.ndarray) -> str:
    """Say what a stack is whose slices are in part at one position (`near` to the next)."""
    first = int(np.argmax(near))
    pair = names(*ordered[first : first + 2])
    seen: dict[tuple[object, ...], Picture] = {}
    for picture in ordered:
        uid = picture.instance_uid or picture.path
        key = (picture.position, uid, picture.frame, picture.instance, *picture.volume.values())
        if key in seen:
            twice = names(seen[key], picture)
            return f"one picture is there twice ({twice}). Leave one copy out of SRC"
        seen[key] = picture
    for keyword in VOLUME_KEYWORDS:
        groups = defaultdict(list)
        for picture in ordered:
            groups[picture.volume[keyword]].append(picture.position)
        sizes = [len(group) for group in groups.values()]
        apart = all(len(set(group)) == len(group) for group in groups.values())
        if apart and len(groups) > 1 and min(sizes) >= max(MIN_SLICES, max(sizes) / 2):
            return f"{len(groups)} volumes in one series, told apart by {keyword}. {SPLIT}"
    ends = np.flatnonzero(np.append(~near, True)) + 1
    times = np.diff(ends, prepend=0)
    if len(times) == 1:
        return f"{len(ordered)} pictures at one position ({pair}), no volume. Leave the series out"
    if times.min() == times.max():
        return f"{times[0]} volumes in one series: {times[0]} slices at each position. {SPLIT}"
    return (
        f"two slices at one position ({pair}), {times.min()} to {times.max()} at each: several "
        "volumes, or a copy. Export it again, each volume as a series of its own"
    )


def refuse_mixed_contrasts(ordered: Sequence[Picture]) -> None:
    """Raise ValueError if the slices of an even stack are of several images."""
    first = ordered[0]
    for keyword in CONTRAST_KEYWORDS:
        value = first.volume[keyword]
        others = [other for other in ordered if not _same_value(value, other.volume[keyword])]
        if others:
            raise ValueError(
                f"{keyword} varies between its slices: {value[:60] or 'none'} and "
                f"{others[0].volume[keyword][:60] or 'none'} ({names(first, others[0])}; "
                f"{len(others)} of {len(ordered)} differ from the first). One image may have "
                "overwritten another. Export it again, each image as a series of its own"
            )


def _same_value(one: str, two: str) -> bool:
    try:
        return isclose(float(one), float(two), rel_tol=1e-3)
    except ValueError:
        return one == two


def names(*pictures: Picture) -> str:
    """The files of one or two pictures, or which frames of one file they are."""
    quoted = [repr(picture.path.name) for picture in pictures]
    if len({picture.path for picture in pictures}) == 1:
        return f"frames {' and '.join(str(p.frame + 1) for p in pictures)} of {quoted[0]}"
    if len(set(quoted)) == 1:
        quoted = [repr(f"{picture.path.parent.name}/{picture.path.name}") for picture in pictures]
    return " and ".join(quoted)
