"""Hashes of values and of files."""

import hashlib
import json
from contextlib import nullcontext
from io import BufferedReader
from pathlib import Path

FileKey = tuple[Path, int, int]  # its path, size and time of change
known_hashes: dict[FileKey, str] = {}  # of the files that this process has hashed


def digest(*parts: object) -> str:
    """Hash JSON-able values to 24 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def file_key(path: Path) -> FileKey:
    """By what a file counts as the same that it was before in this process."""
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


def hash_file(path: Path, opened: BufferedReader | None = None) -> str:
    """Hash a file's bytes to 24 hexadecimal digits, once per process, size and time of change.

    Args:
        path: The file.
        opened: The same file where it is open already; it is then at its beginning again.
    """
    key = file_key(path)
    if key not in known_hashes:
        with path.open("rb") if opened is None else nullcontext(opened) as file:
            known_hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()[:24]
            file.seek(0)
    return known_hashes[key]
