"""How cells are spelt: which look alike, are the same number, or stand for nothing."""

import re
import unicodedata
from decimal import Decimal
from difflib import SequenceMatcher

MISSING = {
    *("na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "null", "none", "nil"),
    *("#value!", "#ref!", "#div/0!", "#num!", "#name?", "#null!"),  # of spreadsheets
    *("-", "--", "–", "—", "?", ".", "missing", "unknown", "not available"),
}
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d{1,3})?")


def is_missing(cell: str) -> bool:
    """Whether R, pandas, spreadsheets or people write this where a value is missing."""
    return folded(cell) in MISSING


def number_of(cell: str) -> Decimal | None:
    """The number that a cell is, exactly, with a decimal point or comma; None if it is none."""
    text = folded(cell)
    return Decimal(text.replace(",", ".")) if NUMBER.fullmatch(text) else None


def bound_of(cell: str) -> Decimal | None:
    """The number in '89+', '>89' or '≤ 5', as ages are capped; None if it is none."""
    capped = re.fullmatch(r"([<>≤≥]=?)?\s*(.*?)\s*(\+)?", folded(cell))
    return number_of(capped[2]) if capped and (capped[1] or capped[3]) else None


def are_one(cell: str, other: str) -> bool:
    """Whether two cells are the same number, or one looks like a slip of the other."""
    number = number_of(cell)
    return is_near(cell, other) or (number is not None and number == number_of(other))


def is_near(cell: str, other: str) -> bool:
    """Whether one looks like a slip of the other: 'helthy' and 'healthy', not 'unhealthy'."""
    one, two = plain(cell), plain(other)
    if one == two:
        return True
    if re.findall(r"\d", one) != re.findall(r"\d", two) or one.endswith(two) or two.endswith(one):
        return False
    return SequenceMatcher(None, one, two).ratio() >= 0.85


def identity(name: str) -> str | Decimal:
    """What is left of a name without case, width, separators, leading zeros and '.0'."""
    number = number_of(name)
    if number is not None and number == number.to_integral_value():
        return number
    joined = re.sub(r"[\s_-]+", "-", folded(name))
    whole = re.sub(r"((?<![\d.])\d+)\.0+$", r"\1", joined)
    return re.sub(r"(?<!\d)0+(?=\d)", "", whole)


def visible(name: str) -> str:
    """The name as it looks: invisible characters left out, letters and accents joined."""
    kept = "".join(letter for letter in name if unicodedata.category(letter) not in ("Cf", "Cc"))
    return " ".join(unicodedata.normalize("NFC", kept).split())


def folded(name: str) -> str:
    """The name without differences of case and width."""
    return unicodedata.normalize("NFKC", visible(name)).casefold()


def plain(name: str) -> str:
    """The folded name without separators."""
    return re.sub(r"[\s_-]+", "", folded(name))
