"""Plain words: what a user or developer reads names things as the field does."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (
    *(".py", ".md", ".yaml", ".yml", ".toml", ".html", ".svg"),
    *(".sbatch", ".c", ".cff"),
    "Makefile",
)
INSTEAD = {  # words, and what to write
    "mend|mends|mended|mending": "fix",
    "torn": "corrupt, cut off",
    "anew": "again",
    "beside": "next to",
    "born": "start",
    "wanted away": "asked to stop",
    "for you to know": "state it",
    "bank|banks": "augmented copies",
    "ledger|ledgers": "seen patients",
    "rival|rivals": "classical method",
    "canary|canaries": "sanity check",
    "settle|settles|settled|residence": "device storage",
    "scan_marks|scan_mark": "fingerprints",
    "say so|says so": "state it",
}
WORDS = "|".join(INSTEAD)
ODD = re.compile(  # parts of names count: `load_bank`, `BANK_VERSION`, `BankLoader`
    f"(?<![A-Za-z])(?i:{WORDS})(?![A-Za-z])|(?:{WORDS.title()})(?=[A-Z])"
    '|(?<![A-Za-z])[Ss]ay (?:[A-Z_]+=|--)|(?<!")"Say '  # a message that asks for a setting
)
ALLOWED: dict[str, str] = {  # file: words that mean something else there, or an old file's key
    "tests/test_words.py": ".*",
    "CHANGELOG.md": "rivals|canary|beside|bank|ledger|mend",  # what was renamed
    "lightning_modules/transfer.py": "ledger|scan_marks",  # keys of older checkpoints
    "tests/lightning_modules/test_transfer.py": "ledger",
    "tests/datamodules/checks/test_seen_scans.py": "scan_marks",
}


def _odd_words(name, text):
    """A line for each odd word: file, line number, word."""
    allowed = re.compile(ALLOWED.get(name, "(?!)"), re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), 1):
        for found in ODD.finditer(line):
            if not allowed.fullmatch(found[0]):
                yield f"{name}:{number}: {found[0]}"


def _files():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no git checkout")
    return [name for name in listed.stdout.splitlines() if name.endswith(TEXT)]


def test_no_file_or_name_has_an_odd_word():
    odd = []
    for name in _files():
        odd += _odd_words(name, name)
        if (ROOT / name).is_file():  # not one that is being deleted
            odd += _odd_words(name, (ROOT / name).read_text(encoding="utf-8"))
    assert odd == []


def test_odd_words_are_found_in_names_and_sentences():
    lines = "load_bank(x)\nBANK = 1\nclass RivalMethod\nMend it.\nnewborn embankment\nsay RUN=x\n"
    assert [*_odd_words("a.py", lines)] == [
        *("a.py:1: bank", "a.py:2: BANK", "a.py:3: Rival", "a.py:4: Mend", "a.py:6: say RUN=")
    ]
