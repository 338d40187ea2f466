"""`import_dicom`: a folder of DICOM series as NIfTI scans and a cohort table without names."""

import logging
from pathlib import Path

from jsonargparse import auto_cli

from datamodules.importing.dicom_import import Import, import_series
from datamodules.importing.dicom_mixture import FEW_SLICES


def import_dicom(args: list[str]) -> None:
    """Import what the command line asks for."""
    auto_cli(_import, args=args, prog="main.py import_dicom")


def _import(
    src: str = "",
    out: str = "",
    key: str = "",
    mapping: str = "",
    series: str = "*",
    patient_folder: int = 0,
) -> None:
    """Write one NIfTI file per whole series, and cohort.csv; name every series that is not.

    Args:
        src: Folder or tree of DICOM files.
        out: Folder for cohort.csv and scans/; it holds no names, dates or texts.
        key: Key of the patient ids, made if it is missing; next to OUT, as OUT.key, if not given.
        mapping: Where to write a private table from the new ids to PatientID, to join labels.
        series: Pattern of the SeriesDescription, such as '*mprage*'; case does not count.
        patient_folder: Which folder below SRC names the patient of series without PatientID: 1 for
            the first one below SRC, 2 for the one in it; 0 for none.
    """
    if patient_folder < 0:
        raise ValueError(f"patient_folder is {patient_folder}. Give 1 for the first below SRC.")
    if not src or not out:
        raise ValueError("Give the folder to import and where to: SRC=folder OUT=folder.")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it quotes headers
    source, folder = Path(src).expanduser(), Path(out).expanduser()
    key_path = Path(key).expanduser() if key else Path(f"{folder.resolve()}.key")
    private = Path(mapping).expanduser() if mapping else None
    done = import_series(source, folder, key_path, private, series, patient_folder)
    _tell(done, folder, key_path, private)
    if done.refused:
        faults = done.refused
        heading = f"{len(faults)} faults under {src!r}, {len(done.rows)} series imported."
        raise ValueError("\n  ".join([heading, *faults]) if len(faults) > 1 else faults[0])
    few = any(line.endswith(FEW_SLICES) for line in done.skipped)
    if not done.rows and done.skipped and series == "*" and not few:  # scouts alone are no fault
        print(f"0 series imported: all {len(done.skipped)} under {src!r} were skipped.")
    elif not done.rows:
        why = "; ".join([*done.skipped[:1], *done.found.lines()]) or "it is empty"
        raise ValueError(f"Nothing to import under {src!r}: {why}.")


def _tell(done: Import, folder: Path, key_path: Path, private: Path | None) -> None:
    for line in done.skipped:
        print(f"skipped: {line}")
    for line in done.remarks:
        print(f"look at: {line}")
    for line in done.found.lines():
        print(f"passed over: {line}")
    if not done.rows:
        return
    patients = len({row["patient_id"] for row in done.rows})
    print(f"{len(done.rows)} series of {patients} patients: {folder / 'cohort.csv'}")
    print(f"The key {key_path} makes the patient ids; keep it, and keep it private.")
    if private is not None:
        print(f"Who is who: {private}. Join your labels by it, and keep it private.")
