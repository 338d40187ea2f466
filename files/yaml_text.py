"""YAML read and written by libyaml where it was built in, which is faster than in Python."""

from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def load_yaml(text: str) -> Any:
    """Read plain values from YAML."""
    return yaml.load(text, Loader=LOADER)


def dump_yaml(values: Any) -> str:
    """Write plain values as YAML, in their order."""
    return yaml.dump(values, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
