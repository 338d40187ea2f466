"""The lines of a CSV or TSV table, and what a file is that is none."""

import csv
import io
import re
from pathlib import Path

NO_TABLES = {  # what a file begins with, what it is, and what to do
    b"PK\x03\x04": "a spreadsheet (Excel or another): save it as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV (UTF-8)",
    b"version https://git-lfs": "a Git LFS pointer, not the table: fetch it with git lfs pull",
    b"/annex/objects": "a git-annex pointer, not the table: fetch it with git annex get",
    b"PAR1": "a Parquet file: save it as CSV (UTF-8)",
    b"\x1f\x8b": "compressed: gunzip it",
}


def read_lines(table: Path) -> list[tuple[int, list[str]]]:
    """Read a CSV or TSV; comma, semicolon and tab are recognised from the header line.

    Args:
        table: Path of the table.

    Returns:
        The lines that are not empty, each with its number in the file.

    Raises:
        ValueError: If it is no such table.
    """
    content = table.read_bytes()
    for start, what in NO_TABLES.items():
        if content.startswith(start):
            raise ValueError(f"Cohort table {table} is {what}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"Cohort table {table} is not UTF-8 text: save it as UTF-8.") from error
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    if told := re.match(r'"?sep=([,;\t])"?\r?\n', text, re.IGNORECASE):  # for Excel
        delimiter, text = told[1], text[len(told[0]) - 1 :]  # rows keep their numbers
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ValueError(f"Cohort table {table}, row {reader.line_num}: {error}.") from error
