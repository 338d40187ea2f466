"""`convert_medmnist`: a cohort, with its official split, from a MedMNIST-3D file."""

from pathlib import Path

from jsonargparse import auto_cli

from datamodules.importing.medmnist import write_medmnist_cohort


def convert_medmnist(args: list[str]) -> None:
    """Write the cohort that the command line asks for."""
    auto_cli(_convert, args=args, prog="main.py convert_medmnist")


def _convert(npz: str = "", out: str = "", classes: str = "") -> None:
    """Write scans, cohort.csv and splits.csv; each volume counts as a patient of its own.

    Args:
        npz: A MedMNIST-3D file, e.g. vesselmnist3d.npz.
        out: Folder for the tables and scans.
        classes: Names of the labels 0, 1, … with commas between them; none keeps the numbers.
    """
    if not npz or not out:
        raise ValueError("Give the file to convert and a folder: NPZ=file.npz OUT=folder.")
    names = [name.strip() for name in classes.split(",")] if classes else []
    table = write_medmnist_cohort(Path(npz).expanduser(), Path(out).expanduser(), names)
    print(f"MedMNIST cohort: {table}. Official split: SPLITS={table.with_name('splits.csv')}.")
