"""Names that stand for patients: a keyed hash, the same on every import that uses the key."""

import hmac
import os
import secrets
from pathlib import Path

KEY_BYTES = 32


def read_or_make_key(path: Path) -> bytes:
    """Read the key of a cohort; make a random one, readable by its owner alone, if there is none.

    Raises:
        ValueError: If the file is no key, or others than its owner may read it.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(path)
    except OSError as error:
        raise ValueError(f"Cannot write the key {str(path)!r}: {error.strerror}.") from error
    with os.fdopen(file, "w", encoding="ascii") as opened:
        key = secrets.token_bytes(KEY_BYTES)
        opened.write(key.hex() + "\n")
    return key


def pseudonym(key: bytes, kind: str, name: str) -> str:
    """Stand for a name: HMAC-SHA256, cut to 64 bits; without the key nobody can try names out.

    Args:
        key: The cohort's key.
        kind: One letter, such as p for a patient; it begins the pseudonym.
        name: What must not be told.
    """
    digest = hmac.new(key, f"{kind}\0{name}".encode("utf-8", "surrogatepass"), "sha256")
    return kind + digest.hexdigest()[:16]


def _read_key(path: Path) -> bytes:
    try:
        open_to_others = path.stat().st_mode & 0o077
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"Cannot read the key {str(path)!r}: {error.strerror}.") from error
    if open_to_others:
        raise ValueError(f"The key {str(path)!r} is open to others. Run: chmod 600 {str(path)!r}.")
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(
            f"The key {str(path)!r} is not one of ours (64 hexadecimal digits). Name another with "
            "KEY=; a new key gives new patient ids."
        )
    return key
