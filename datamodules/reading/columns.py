"""The columns of a cohort table: their names, and where they stand in its header line."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

from datamodules.reading.nifti_bytes import SUFFIXES


@dataclass(frozen=True)
class Columns:
    """Names of the cohort table's columns.

    Args:
        patient_id: Column that names the patient; rows of one patient never part in a split.
        image: Column with the scan's path, absolute or relative to the table's folder, which a
            relative one must not leave. Where a row has several contrasts, their columns are
            image_<contrast>.
        label: Column with the class; may be absent where no class is needed.
        session: Column with the visit; may be absent.
        site: Column with the scanner or hospital; may be absent.
        mask: Column with the path of a mask of the region of interest; may be absent.
        target: Column with the number that a regression predicts; may be absent elsewhere.
        synthetic: Column that says 'yes' of rows which are no scan but were made from the
            patient's: they are for training alone. May be absent.
    """

    patient_id: str = "patient_id"
    image: str = "image"
    label: str = "label"
    session: str = "session"
    site: str = "site"
    mask: str = "mask"
    target: str = "target"
    synthetic: str = "synthetic"

    def images(self, contrasts: Sequence[str]) -> list[str]:
        """Names of the columns with the images of a row, one for each contrast."""
        return [f"{self.image}_{contrast}" for contrast in contrasts] or [self.image]


def column_positions(
    table: Path, header: list[str], columns: Columns, needed: Sequence[str]
) -> dict[str, int]:
    """Where each column of the table stands."""
    names = [name.strip() for name in header]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"Cohort table {table} has two columns named {repeated[0]!r}.")
    if any(name.lower().endswith(SUFFIXES) for name in names):
        raise ValueError(
            f"Cohort table {table} has no header line: its first line names a scan. Write "
            f"{columns.patient_id},{columns.image},{columns.label} above it, in the order of the "
            "columns."
        )
    given = [getattr(columns, field.name) for field in fields(columns)]
    defaults = {field.default for field in fields(columns)} | {columns.image}
    for wanted in (*needed, *(name for name in given if name not in defaults)):
        if wanted not in names:
            fix = _contrasts_fix(names, columns) if wanted == columns.image else ""
            raise ValueError(
                f"Cohort table {table} has no column {wanted!r}"
                f"{'' if fix else _suggestion(wanted, names)}; it has {names}. "
                f"{fix or _rename_fix(wanted, columns)}"
            )
    return {name: place for place, name in enumerate(names) if name}


def _rename_fix(wanted: str, columns: Columns) -> str:
    known = [field.name for field in fields(columns) if getattr(columns, field.name) == wanted]
    if known:
        return f"Rename it or set --data.columns.{known[0]}."
    return "Rename it or correct --data.contrasts."


def _contrasts_fix(names: Sequence[str], columns: Columns) -> str:
    """What to type where a table has a column of images for each contrast."""
    start = f"{columns.image}_"
    found = [name.removeprefix(start) for name in names if name.startswith(start)]
    if not found:
        return ""
    return (
        f"It has an image for each contrast: rename the one that you want, or set --data.contrasts="
        f"'[{', '.join(found)}]' for all, --data.columns.image={start}{found[0]} for one."
    )


def _suggestion(wanted: str, choices: Sequence[str]) -> str:
    close = get_close_matches(wanted, choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
