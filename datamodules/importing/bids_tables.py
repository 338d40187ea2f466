"""What participants.tsv and sessions.tsv of a BIDS tree tell of each visit."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path

from datamodules.checks.spelling import identity

MISSING = "n/a"
OWN_COLUMNS = ["patient_id", "session", "image"]
SESSION = ("session_id", "session")  # by what a row of participants.tsv is joined to a visit
Visit = tuple[str, str]  # 'sub-…', and 'ses-…' or ''
Cells = dict[str, str]  # by column, '' for n/a


@dataclass
class Described:
    """Cells of each visit; the columns that they have; one line per thing to look at."""

    cells: dict[Visit, Cells]
    columns: list[str]
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Table:
    """Rows by patient and session; `columns` without those of patient and session."""

    columns: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Cells]] = field(default_factory=lambda: defaultdict(dict))


def describe_visits(tree: Path, visits: Iterable[Visit], label: str) -> Described:
    """Join the tables of a tree to its visits.

    A row with a session belongs to that visit, one without to all visits of its patient. A visit
    without a row gets what all rows of its patient agree on. What sessions.tsv tells counts more
    than what participants.tsv tells.

    Args:
        tree: Folder with sub-… folders.
        visits: The visits that have scans.
        label: Column that becomes the label; '' for none.

    Raises:
        ValueError: If a table is faulty, or has no row for a patient who needs a label.
    """
    visits = sorted(set(visits))
    path = tree / "participants.tsv"
    people, sessions = _Table(), _Table()
    if path.is_file():
        _read(path, people, label)
    if (tree / "sessions.tsv").is_file():
        _read(tree / "sessions.tsv", sessions, label)
    for file in sorted(tree.glob("sub-*/sub-*_sessions.tsv")):
        _read(file, sessions, label, patient=file.parent.name)
    columns = list(dict.fromkeys([*people.columns, *sessions.columns]))
    if label and "label" not in columns:
        if not path.is_file():
            raise ValueError(f"LABEL={label}, but {str(path)!r} does not exist. Add it.")
        hint = near(label, columns)
        raise ValueError(f"{str(path)!r} has no column LABEL={label}{hint}, it has {columns}.")
    found = Described({}, columns)
    _join(visits, people, found)
    _join(visits, sessions, found)
    _remark(visits, people, label, found)
    return found


def near(wanted: str, choices: Sequence[str]) -> str:
    """A question that names what is nearest to `wanted`, '' if nothing is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = get_close_matches(wanted.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def _read(path: Path, table: _Table, label: str, patient: str = "") -> None:
    """Add the rows of a file; `patient` is that of a sessions.tsv in a patient's folder."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text. Save it as UTF-8.") from error
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    stripped = ([cell.strip() for cell in line] for line in lines)
    header, *rows = [line for line in stripped if any(line)] or [[""]]
    needed = "session_id" if patient else "participant_id"
    if needed not in header:
        raise ValueError(f"{str(path)!r} has no column {needed!r}, it has {header}. Add it.")
    session = next((name for name in SESSION if name in header), "")
    keys = ("participant_id", session)
    names = ["label" if name == label and name not in keys else name for name in header]
    named = [name for name in names if name and name not in keys]
    twice = {name for name in names if name and names.count(name) > 1}
    if clash := sorted(twice | (set(named) & set(OWN_COLUMNS))):
        raise ValueError(f"{str(path)!r} would give two columns {clash[0]!r}. Rename one of them.")
    table.columns += [name for name in named if name not in table.columns]
    shortest = max(place for place, name in enumerate(header, 1) if name)
    read: dict[Visit, Cells] = {}
    for row in rows:
        where = f"{str(path)!r}: the row of {row[0]!r}"
        nameless = [cell for cell, name in zip_longest(row, names, fillvalue="") if not name]
        if len(row) < shortest or (len(row) > len(names) and any(nameless)):
            count = f"{len(row)} cells where the header has {shortest}"
            raise ValueError(f"{where} has {count}. Fix it.")
        if any(nameless):
            raise ValueError(f"{where} has a value in a column without a name. Name the column.")
        cells = {
            name: "" if cell.lower() == MISSING else cell
            for name, cell in zip(names, row, strict=False)
            if name
        }
        who = "sub-" + cells.pop("participant_id", patient).removeprefix("sub-")
        visit = cells.pop(session, "").removeprefix("ses-")
        visit = f"ses-{visit}" if visit else ""
        if (earlier := read.setdefault((who, visit), cells)) != cells:
            column = next(name for name in named if earlier[name] != cells[name])
            fix = f"Make them agree{'' if session else ', or give each its visit in session_id'}"
            raise ValueError(
                f"{str(path)!r} has two rows of {_name((who, visit))!r} that differ in "
                f"{header[names.index(column)]!r}. {fix}."
            )
    for (who, visit), cells in read.items():
        table.rows[who].setdefault(visit, {}).update(cells)


def _join(visits: Sequence[Visit], table: _Table, found: Described) -> None:
    """Add the cells that are known of each visit."""
    patients = dict.fromkeys(patient for patient, _ in visits)
    respelt = _respelt(table.rows, patients)
    for there, here in respelt.items():
        table.rows[here] = table.rows.pop(there)
    if respelt:
        there, here = next(iter(respelt.items()))
        found.remarks.append(
            f"{len(respelt)} ids of the table are matched with folders by another spelling "
            f"(first: {there!r} with {here!r})."
        )
    without: list[Visit] = []
    for patient in patients:
        rows = table.rows.get(patient, {})
        own = [session for who, session in visits if who == patient]
        rows |= {name: rows[old] for old, name in _respelt(rows, own).items()}
        shared = set.intersection(*(set(cells.items()) for cells in rows.values())) if rows else ()
        for session in own:
            if rows and session not in rows and "" not in rows:
                without.append((patient, session))
            known = rows.get(session, rows.get("", dict(shared)))
            cells = found.cells.setdefault((patient, session), dict.fromkeys(found.columns, ""))
            cells |= {name: cell for name, cell in known.items() if cell}
    if without:
        found.remarks.append(
            f"{len(without)} visits have no row of their own (first: {_name(without[0])!r}): "
            "they get what all rows of their patient agree on."
        )


def _respelt(there: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """Names of a table that are, in another spelling, names of the tree: sub-1 and sub-001."""
    exact = set(there) & set(here)
    left, free = (
        {name: identity(name) for name in names if name and name not in exact}
        for names in (there, here)
    )
    num_left, num_free = Counter(left.values()), Counter(free.values())
    by_identity = {known: name for name, known in free.items() if num_free[known] == 1}
    return {
        name: by_identity[known]
        for name, known in left.items()
        if num_left[known] == 1 and known in by_identity
    }


def _remark(visits: Sequence[Visit], people: _Table, label: str, found: Described) -> None:
    patients = sorted({patient for patient, _ in visits})
    bare = [visit for visit in visits if label and not found.cells[visit]["label"]]
    without_label = {patient for patient, _ in bare}
    if people.rows and (unknown := [who for who in patients if who not in people.rows]):
        words = f"{len(unknown)} patients have no row in participants.tsv (first: {unknown[0]!r})."
        if without_label & set(unknown):
            raise ValueError(f"{words} Add them, or move their folders out of the tree.")
        found.remarks.append(words)
    if absent := sorted(set(people.rows) - set(patients)):
        found.remarks.append(
            f"{len(absent)} rows of participants.tsv have no scan here (first: {absent[0]!r})."
        )
    if bare:
        words = f"{len(without_label)} patients have no {label} (first: {_name(bare[0])!r})"
        found.remarks.append(f"{words}; fill them in.")


def _name(visit: Visit) -> str:
    return " ".join(visit).rstrip()
