"""Turn a BIDS tree into a cohort table (Gorgolewski et al. 2016, Sci Data 3:160044).

Read are the names sub-<label>/[ses-<label>/]<datatype>/sub-<label>_…_<suffix>.nii[.gz] and
the tables (bids_tables.py); derivatives/ and sourcedata/ are trees of their own.
"""

import csv
import io
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.importing.bids_tables import OWN_COLUMNS, Described, Visit, describe_visits, near
from files.whole_file import whole_file, write_whole

NAME = re.compile(
    r"(?P<patient>sub-[a-zA-Z0-9]+)(_(?P<session>ses-[a-zA-Z0-9]+))?"
    r"(_[a-zA-Z]+-[a-zA-Z0-9+]+)*_(?P<suffix>[a-zA-Z0-9]+)\.nii(\.gz)?"
)


@dataclass
class BidsCohort:
    """A BIDS tree as rows of a cohort table.

    Args:
        columns: Names of the columns.
        rows: One row per scan.
        remarks: One line per thing to look at.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    remarks: list[str] = field(default_factory=list)


def import_bids_tree(tree: Path, out: Path, suffix: str = "T1w", label: str = "") -> BidsCohort:
    """Write the cohort table of one kind of scan in a BIDS tree.

    A table in the tree or above it points at the scans where they are. Anywhere else its paths
    would climb out of its folder, so a folder gets copies.

    Args:
        tree: Folder with sub-… folders.
        out: The table (.csv), or a folder for cohort.csv.
        suffix: Which scans, such as T1w or FLAIR.
        label: Column of participants.tsv that becomes the label; '' for none.

    Returns:
        What stands in the table.

    Raises:
        ValueError: If the tree or participants.tsv is faulty, or the table cannot lie there.
    """
    scans, remarks = find_scans(tree, suffix)
    cohort = _as_cohort(scans, describe_visits(tree, scans.values(), label), remarks)
    table = out if out.suffix.lower() == ".csv" else out / "cohort.csv"
    try:
        _write(cohort, scans, tree, table, may_copy=table != out)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(error.filename or table)!r}: {error.strerror}."
        ) from error
    return cohort


def find_scans(tree: Path, suffix: str) -> tuple[dict[Path, Visit], list[str]]:
    """Find the scans with a suffix.

    Returns:
        Patient ('sub-…') and session ('ses-…' or '') of each file; remarks on what is odd.
    """
    if not tree.is_dir():
        what = "is a file. Give its folder" if tree.exists() else "does not exist. Check the path"
        raise ValueError(f"{str(tree)!r} {what} in SRC=.")
    files = sorted(
        path
        for pattern in ("sub-*/*/*.nii*", "sub-*/ses-*/*/*.nii*")
        for path in tree.glob(pattern)
        if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
    )
    patients = {path.name for path in tree.glob("sub-*") if path.is_dir()}
    if not patients:
        raise ValueError(f"{str(tree)!r} has no folders sub-…: it is no BIDS tree. Check SRC=.")
    scans: dict[Path, Visit] = {}
    suffixes, remarks = Counter[str](), []
    for path in files:
        place = path.relative_to(tree)
        name = NAME.fullmatch(path.name)
        if name is None:
            if re.search(rf"_{re.escape(suffix)}\.nii", path.name):
                raise ValueError(f"{str(place)!r} is no BIDS name. Call it sub-…_{suffix}.nii.gz.")
            remarks.append(f"{str(place)!r} is no BIDS name: left out.")
            continue
        suffixes[name["suffix"]] += 1
        if name["suffix"] != suffix:
            continue
        session = name["session"] or ""
        folders = [name["patient"], *([session] if session else [])]
        if list(place.parts[:-2]) != folders:
            raise ValueError(
                f"{str(place)!r} lies in another patient's or session's folder. Move or rename it."
            )
        if not path.exists():
            raise ValueError(f"{str(place)!r} is a broken link. Fetch its content (datalad get).")
        if (twin := path.with_name(path.name.removesuffix(".gz"))) in scans:
            raise ValueError(
                f"{str(place)!r} and {twin.name!r} have one name. Move one of them out of the tree."
            )
        scans[path] = (name["patient"], session)
    if not scans:
        there = ", ".join(f"{number} {name}" for name, number in suffixes.most_common(8)) or "none"
        raise ValueError(
            f"{str(tree)!r} has no scans that end in _{suffix}{near(suffix, list(suffixes))}. "
            f"Scans there are: {there}. Choose with SUFFIX=."
        )
    if without := sorted(patients - {patient for patient, _ in scans.values()}):
        remarks.append(f"{len(without)} patients have no {suffix} scan (first: {without[0]!r}).")
    return scans, remarks


def _as_cohort(
    scans: dict[Path, Visit], described: Described, remarks: Sequence[str]
) -> BidsCohort:
    together = defaultdict(list)
    for path, visit in scans.items():
        together[visit].append(path.name)
    remarks = [*remarks, *described.remarks]
    if several := [names for names in together.values() if len(names) > 1]:
        remarks.append(
            f"{len(several)} visits have several scans (first: {', '.join(several[0])}). "
            "All are in the table."
        )
    sessions = any(session for _, session in scans.values())
    rows = [
        {"patient_id": patient, "session": session} | described.cells[patient, session]
        for patient, session in scans.values()
    ]
    own = [name for name in OWN_COLUMNS if name != "session" or sessions]
    columns = sorted(described.columns, key=lambda name: name != "label")
    return BidsCohort([*own, *columns], rows, remarks)


def _write(
    cohort: BidsCohort, scans: dict[Path, Visit], tree: Path, table: Path, may_copy: bool
) -> None:
    home = table.parent.resolve()
    in_place = tree.resolve().is_relative_to(home)
    if not in_place and not may_copy:
        raise ValueError(
            f"From {str(table)!r} the paths of the scans would climb out of the table's folder. "
            f"Write it to {str(tree / 'cohort.csv')!r}, or give a folder in OUT= for copies."
        )
    places = [path.relative_to(tree) for path in scans]
    base = tree.resolve().relative_to(home) if in_place else Path()
    for row, place in zip(cohort.rows, places, strict=True):
        row["image"] = (base / place).as_posix()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, cohort.columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cohort.rows)
    if table.exists() and table.read_bytes() != text.getvalue().encode():
        raise ValueError(f"{str(table)!r} exists and says something else. Move it, or change OUT=.")
    for place in [] if in_place else places:
        (table.parent / place).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(table.parent / place) as unfinished:
            shutil.copyfile(tree / place, unfinished)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_whole(text.getvalue(), table)
