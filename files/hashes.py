"""Hashes of values and of files."""

import hashlib
import json
from functools import cache
from pathlib import Path


def digest(*parts: object) -> str:
    """Hash JSON-able values to 24 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def hash_bytes(path: Path, _size: int, _mtime_ns: int) -> str:
    """Hash a file's bytes to 24 hexadecimal digits, once per size and time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]
