"""YAML read and written by libyaml where it was built in, which is faster than in Python."""

from pathlib import Path
from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_yaml(path: Path) -> Any:
    """Read the plain values of a file.

    Raises:
        ValueError: If it is not YAML, naming the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    return load_yaml(text, str(path))


def load_yaml(text: str, name: str) -> Any:
    """Read plain values from a text.

    Args:
        text: The YAML.
        name: What the text is called in an error.

    Raises:
        ValueError: If it is not YAML, naming it and the line.
    """
    try:
        return yaml.load(text, Loader=LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from error


def dump_yaml(values: Any) -> str:
    """Write plain values as YAML, in their order."""
    return yaml.dump(values, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
