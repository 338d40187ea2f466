"""`import_bids`: the cohort table of one kind of scan in a BIDS tree."""

from pathlib import Path

from jsonargparse import auto_cli

from datamodules.importing.bids import import_bids_tree


def import_bids(args: list[str]) -> None:
    """Write the table that the command line asks for."""
    auto_cli(_import, args=args, prog="main.py import_bids")


def _import(src: str = "", out: str = "", suffix: str = "T1w", label: str = "") -> None:
    """Write a cohort table with a row per scan and the columns of participants.tsv.

    Args:
        src: BIDS tree: a folder with sub-… folders.
        out: The table (.csv), in the tree or above it; or a folder: in place there, else copied.
        suffix: Which scans, such as T1w or FLAIR.
        label: Column of participants.tsv that becomes the label.
    """
    if not src or not out:
        raise ValueError("Give the tree to import and where to: SRC=tree OUT=folder or table.csv.")
    tree, target = Path(src).expanduser(), Path(out).expanduser()
    cohort = import_bids_tree(tree, target, suffix, label)
    for line in cohort.remarks:
        print(f"look at: {line}")
    patients = len({row["patient_id"] for row in cohort.rows})
    table = target if target.suffix.lower() == ".csv" else target / "cohort.csv"
    print(f"{len(cohort.rows)} scans of {patients} patients: {table}")
