"""Turn a BIDS tree into a cohort table (Gorgolewski et al. 2016, Sci Data 3:160044).

Read are the names sub-<label>/[ses-<label>/]<datatype>/sub-<label>_…_<suffix>.nii[.gz] and
participants.tsv; derivatives/ and sourcedata/ are trees of their own.
"""

import csv
import io
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from files.whole_file import whole_file, write_whole

NAME = re.compile(
    r"(?P<patient>sub-[a-zA-Z0-9]+)(_(?P<session>ses-[a-zA-Z0-9]+))?"
    r"(_[a-zA-Z]+-[a-zA-Z0-9+]+)*_(?P<suffix>[a-zA-Z0-9]+)\.nii(\.gz)?"
)

MISSING = "n/a"
OWN_COLUMNS = ["patient_id", "session", "image"]


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
    people, columns = read_participants(tree, label)
    cohort = _join(scans, people, columns, label)
    cohort.remarks = remarks + cohort.remarks
    table = out if out.suffix.lower() == ".csv" else out / "cohort.csv"
    try:
        _write(cohort, scans, tree, table, may_copy=table != out)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(error.filename or table)!r}: {error.strerror}."
        ) from error
    return cohort


def find_scans(tree: Path, suffix: str) -> tuple[dict[Path, tuple[str, str]], list[str]]:
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
    scans: dict[Path, tuple[str, str]] = {}
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
            raise ValueError(f"{str(place)!r} and {twin.name!r} are one scan. Delete one of them.")
        scans[path] = (name["patient"], session)
    if not scans:
        there = ", ".join(f"{number} {name}" for name, number in suffixes.most_common(8)) or "none"
        raise ValueError(
            f"{str(tree)!r} has no scans that end in _{suffix}{_hint(suffix, list(suffixes))}. "
            f"Scans there are: {there}. Choose with SUFFIX=."
        )
    if without := sorted(patients - {patient for patient, _ in scans.values()}):
        remarks.append(f"{len(without)} patients have no {suffix} scan (first: {without[0]!r}).")
    return scans, remarks


def read_participants(tree: Path, label: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Read participants.tsv.

    Returns:
        Cells of each patient by column, '' for n/a, with the label column under that name; and
        the columns. Both are empty if there is no such file.
    """
    path = tree / "participants.tsv"
    if not path.is_file():
        if label:
            raise ValueError(f"LABEL={label}, but {str(path)!r} does not exist. Add it.")
        return {}, []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text. Save it as UTF-8.") from error
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    header, *lines = [[cell.strip() for cell in line] for line in lines if any(line)] or [[""]]
    if "participant_id" not in header:
        raise ValueError(f"{str(path)!r} has no column 'participant_id', it has {header}. Add it.")
    if label and label not in header:
        raise ValueError(
            f"{str(path)!r} has no column LABEL={label}{_hint(label, header)}, it has {header}."
        )
    names = [_column(name, label) for name in header]
    if clash := sorted({name for name in names if names.count(name) > 1 or name in OWN_COLUMNS}):
        raise ValueError(f"{str(path)!r} would give two columns {clash[0]!r}. Rename one of them.")
    people: dict[str, dict[str, str]] = {}
    for line in lines:
        if len(line) != len(header):
            raise ValueError(
                f"{str(path)!r}: the row of {line[0]!r} has {len(line)} cells where the header has "
                f"{len(header)}. Fix it."
            )
        cells = {
            name: "" if cell.lower() == MISSING else cell
            for name, cell in zip(names, line, strict=True)
        }
        patient = "sub-" + cells.pop("participant_id").removeprefix("sub-")
        if patient in people:
            raise ValueError(f"{str(path)!r} has two rows of {patient!r}. Delete one.")
        people[patient] = cells
    return people, [name for name in names if name != "participant_id"]


def _join(
    scans: dict[Path, tuple[str, str]],
    people: dict[str, dict[str, str]],
    columns: Sequence[str],
    label: str,
) -> BidsCohort:
    patients = sorted({patient for patient, _ in scans.values()})
    remarks = []
    if people and (unknown := [patient for patient in patients if patient not in people]):
        words = f"{len(unknown)} patients have no row in participants.tsv (first: {unknown[0]!r})."
        if label:
            raise ValueError(f"{words} Add them, or move their folders out of the tree.")
        remarks.append(words)
    if absent := sorted(set(people) - set(patients)):
        remarks.append(
            f"{len(absent)} rows of participants.tsv have no scan here (first: {absent[0]!r})."
        )
    if label and (bare := [who for who in patients if not people[who]["label"]]):
        remarks.append(f"{len(bare)} patients have no {label} (first: {bare[0]!r}); fill them in.")
    together = defaultdict(list)
    for path, visit in scans.items():
        together[visit].append(path.name)
    if several := [names for names in together.values() if len(names) > 1]:
        remarks.append(
            f"{len(several)} visits have several scans (first: {', '.join(several[0])}). "
            "All are in the table; delete the rows that you do not want."
        )
    nothing = dict.fromkeys(columns, "")
    sessions = any(session for _, session in scans.values())
    rows = [
        {"patient_id": patient, "session": session} | (people.get(patient) or nothing)
        for patient, session in scans.values()
    ]
    own = [name for name in OWN_COLUMNS if name != "session" or sessions]
    return BidsCohort([*own, *sorted(columns, key=lambda name: name != "label")], rows, remarks)


def _write(
    cohort: BidsCohort, scans: dict[Path, tuple[str, str]], tree: Path, table: Path, may_copy: bool
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
        raise ValueError(
            f"{str(table)!r} exists and says something else. Delete it, or change OUT=."
        )
    for place in [] if in_place else places:
        (table.parent / place).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(table.parent / place) as unfinished:
            shutil.copyfile(tree / place, unfinished)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_whole(text.getvalue(), table)


def _column(name: str, label: str) -> str:
    return "label" if label and name == label else name


def _hint(wanted: str, choices: Sequence[str]) -> str:
    by_lower = {choice.lower(): choice for choice in choices}
    close = get_close_matches(wanted.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
