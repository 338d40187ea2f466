"""What to look at in an import that is sound: people, repeated scans, hidden gaps."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.importing.dicom_header import Picture
from datamodules.importing.dicom_stack import Stack
from datamodules.importing.dicom_table import study_times


def identity_remarks(pictures: Sequence[Picture], patient_of: Mapping[str, str]) -> list[str]:
    """Tell of PatientIDs that may be two people, of people with two, and of undated studies.

    Args:
        pictures: All that were found.
        patient_of: The new id of each imported PatientID: what may be quoted.
    """
    first = {picture.patient_id: repr(picture.path.name) for picture in reversed(pictures)}
    births: dict[str, dict[str, str]] = defaultdict(dict)
    persons: dict[tuple[str, str], set[str]] = defaultdict(set)
    for picture in pictures:
        name, birth, _ = picture.person
        if birth:
            births[picture.patient_id].setdefault(birth, repr(picture.path.name))
        if name and birth and picture.patient_id in patient_of:
            persons[name, birth].add(picture.patient_id)
    remarks = [
        f"One PatientID has two dates of birth ({' and '.join([*files.values()][:2])}). Is it one "
        "person? If not, give the files PatientIDs of their own."
        for files in births.values()
        if len(files) > 1
    ]
    spelt: dict[str, set[str]] = defaultdict(set)
    for patient in patient_of:
        spelt[_as_one_spells(patient)].add(patient)
    people: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (name, birth), patients in persons.items():
        people[_as_one_spells(name), birth] |= patients
    others = [group for group in people.values() if len({*map(_as_one_spells, group)}) > 1]
    for groups, why in (
        (spelt.values(), "differ by case, spaces, punctuation or zeros alone"),
        (others, "have one name and one date of birth"),
    ):
        if alike := [
            sorted(patient_of[id_] for id_ in group) for group in groups if len(group) > 1
        ]:
            remarks.append(
                f"{sum(map(len, alike))} PatientIDs may be {len(alike)} "
                f"{'people' if len(alike) > 1 else 'person'}: they {why} (such as "
                f"{' and '.join(alike[0][:2])}). Give one person one patient_id, or a split puts "
                "it on two sides."
            )
    for patient, times in study_times(pictures).items():
        if len(set(times.values())) < len(times):
            remarks.append(
                f"{len(times)} studies of one patient (first file {first[patient]}) have no dates "
                "of their own: the numbers of these sessions follow no time."
            )
    return remarks


def _as_one_spells(text: str) -> str:
    """A name or id without what people type differently: AB-0012 and ab 12 are equal."""
    parts = re.findall(r"\d+|[^\W\d_]+", text.casefold())
    return "".join(part.lstrip("0") or "0" for part in parts) or text


def repeat_remarks(stacks: Sequence[Stack]) -> list[str]:
    """Tell of series that may be the times, echoes or repeats of one acquisition."""
    alike: dict[tuple[object, ...], list[Stack]] = defaultdict(list)
    for slices in stacks:
        first, place = slices.pictures[0], slices.affine.round(2) + 0.0  # -0.0 is 0.0
        who = (first.patient_id, first.study_uid, first.description.casefold())
        alike[*who, first.size, len(slices.pictures), place.tobytes()].append(slices)
    groups = sorted((group for group in alike.values() if len(group) > 1), key=len, reverse=True)
    if not groups:
        return []
    folder = groups[0][0].pictures[0].path.parent.name
    more = f"; {sum(map(len, groups))} in {len(groups)} such groups" if len(groups) > 1 else ""
    return [
        f"{len(groups[0])} series of one patient and session have the same geometry and "
        f"description (one is in {folder!r}{more}): time points, echoes or repeats? Each is a row "
        "of its own in the table. Keep the rows that you mean."
    ]


def geometry_remarks(slices: Stack) -> list[str]:
    """What a geometry without a gap may hide: slices that are missing at its end or throughout."""
    remarks, pictures = [], slices.pictures
    numbers = [int(picture.instance) for picture in pictures if picture.instance.isdecimal()]
    if len(numbers) == len(pictures) and min(numbers) > 1:
        remarks.append(
            f"its lowest InstanceNumber is {min(numbers)}. Are slices missing before it?"
        )
    measured, said = float(np.linalg.norm(slices.affine[:3, 2])), pictures[0].step
    if said and said > 0 and measured > 1.9 * said:
        remarks.append(
            f"slices are {measured:.4g} mm apart, its header says {said:g}. Are some missing?"
        )
    return remarks
