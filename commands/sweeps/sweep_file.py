"""A sweep file, in W&B's format: which settings there are, and what each of them is called.

The names of its parameters are keys of the command line; `config` names YAML files, for values
that go together. A setting is a mapping from keys to texts, as they stand on a command line: that
is what W&B's agent passes on, and what a folder's name is made of.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluation.metrics import NAMES
from files.hashes import digest

Setting = Mapping[str, str]
METHODS = ("grid", "random", "bayes")
LONGEST_NAME = 48
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Args:
        path: The file.
        content: Its content, as W&B takes it.
    """

    path: Path
    content: dict[str, Any]

    @property
    def method(self) -> str:
        """One of 'grid', 'random' and 'bayes'."""
        return self.content["method"]

    @property
    def measure(self) -> str:
        """Name of the cross-validated figure that counts, without its 'cv/'."""
        return self.content["metric"]["name"].removeprefix("cv/")

    @property
    def maximize(self) -> bool:
        """Whether more of it is better."""
        return self.content["metric"]["goal"] == "maximize"

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The space of each key."""
        return self.content["parameters"]

    def settings(self) -> Iterator[Setting]:
        """Every combination of a grid, in the order of the file.

        Raises:
            ValueError: If a key has no list of values.
        """
        for key, space in self.parameters.items():
            if "values" not in space and "value" not in space:
                raise ValueError(
                    f"{self.path}: {key} has no list of values, so that there is no grid. "
                    "Give it `values`, or search: make sweep LOCAL=1."
                )
        lists = [values_of(space) for space in self.parameters.values()]
        for values in itertools.product(*lists):
            yield dict(zip(self.parameters, values, strict=True))


def read_sweep(path: str | Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ValueError: If it is missing, or says what the local search or the parser cannot follow.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no sweep file {str(path)!r}. Say SWEEP=configs/sweeps/….yaml.")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise ValueError(f"{path} is no sweep file: it has no `parameters`.")
    metric = content.get("metric") or {}
    if content.get("method") not in METHODS:
        raise ValueError(f"{path}: method is {content.get('method')!r}, not one of {METHODS}.")
    if metric.get("name") not in {f"cv/{name}" for name in NAMES}:
        raise ValueError(
            f"{path}: metric.name is {metric.get('name')!r}; choose cv/ and one of {NAMES}."
        )
    if metric.get("goal") not in ("maximize", "minimize"):
        raise ValueError(f"{path}: metric.goal must be maximize or minimize.")
    for key, space in content["parameters"].items():
        _check_space(path, key, space)
    return Sweep(path, content)


def _check_space(path: Path, key: str, space: Any) -> None:
    if not isinstance(space, dict) or "parameters" in space:
        raise ValueError(f"{path}: {key} is nested; write keys with dots, as model.lr.")
    if None in space.get("values", []) or ("value" in space and space["value"] is None):
        raise ValueError(f"{path}: {key} may be null, which W&B passes on as the word 'None'.")
    if "values" in space or "value" in space:
        return
    if not {"min", "max"} <= space.keys():
        raise ValueError(f"{path}: {key} needs `values`, or `min` and `max`.")
    distribution = space.get("distribution", "uniform")
    if distribution not in ("uniform", "int_uniform", "log_uniform_values"):
        raise ValueError(
            f"{path}: {key} has distribution {distribution!r}; the local search knows uniform, "
            "int_uniform and log_uniform_values."
        )
    if "distribution" not in space and type(space["min"]) is not type(space["max"]):
        raise ValueError(f"{path}: min and max of {key} must both be whole numbers, or both not.")


def values_of(space: Mapping[str, Any]) -> list[str]:
    """The values of a parameter that has a list of them, as texts."""
    return [str(value) for value in space.get("values", [space.get("value")])]


def setting_name(setting: Setting) -> str:
    """Name a setting's folder by its content: in words where they are short, else by its hash.

    `{"model.depth": "2", "model.nodes": "32"}` is depth2-nodes32.
    """
    words = [
        Path(text).stem if key == "config" else f"{key.rpartition('.')[2]}{text}"
        for key, text in sorted(setting.items())
    ]
    name = "-".join(words)
    return name if len(name) <= LONGEST_NAME and SAFE.issuperset(name) else digest(setting)[:12]


def setting_arguments(setting: Setting) -> list[str]:
    """Write a setting as arguments; YAML files come first, so that they override no other key."""
    ordered = sorted(setting.items(), key=lambda item: (item[0] != "config", item[0]))
    return [f"--{key}={text}" for key, text in ordered]


def read_arguments(arguments: list[str]) -> Setting:
    """Read what `setting_arguments`, or W&B's agent, wrote.

    Raises:
        ValueError: If one is not of the form --key=value.
    """
    setting = {}
    for argument in arguments:
        key, equals, text = argument.removeprefix("--").partition("=")
        if not (argument.startswith("--") and key and equals):
            raise ValueError(f"A setting is written --key=value, not {argument!r}.")
        setting[key] = text
    return setting
