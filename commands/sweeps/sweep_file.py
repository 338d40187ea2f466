"""A sweep file, in W&B's format: which settings there are, and what each of them is called.

The names of its parameters are keys of the command line; `config` names YAML files, for values
that go together. A setting is a mapping from keys to texts, as they stand on a command line: that
is what W&B's agent passes on, and what a folder's name is made of.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from evaluation.metrics import NAMES
from evaluation.regression import MEASURES
from files.hashes import digest
from files.whole_file import write_whole
from files.yaml_text import read_yaml

Setting = Mapping[str, str]
METHODS = ("grid", "random", "bayes")
SETTING_NAME = "setting.json"
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
    def is_grid(self) -> bool:
        """Whether every combination is tried."""
        return self.method == "grid"

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

    @property
    def prunes(self) -> bool:
        """Whether settings that are behind are stopped early."""
        return "early_terminate" in self.content

    def settings(self) -> Iterator[Setting]:
        """Every combination of a grid, in the order of the file.

        Raises:
            ValueError: If a key has no list of values.
        """
        for key, space in self.parameters.items():
            if "values" not in space and "value" not in space:
                raise ValueError(
                    f"{self.path}: {key} has no list of values, so that there is no grid. "
                    "Give it `values`, or set method to random or bayes."
                )
        lists = [values_of(space) for space in self.parameters.values()]
        for values in itertools.product(*lists):
            yield dict(zip(self.parameters, values, strict=True))

    def num_settings(self) -> int:
        """How many settings are tried.

        Raises:
            ValueError: If the file does not limit a search.
        """
        if self.is_grid:
            return len(list(self.settings()))
        if not isinstance(self.content.get("run_cap"), int):
            raise ValueError(f"{self.path} has no run_cap: give the number of settings to try.")
        return self.content["run_cap"]

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space of each key, for Optuna."""
        return {key: _distribution(space) for key, space in self.parameters.items()}

    def setting_of(self, values: Mapping[str, Any]) -> Setting:
        """Write Optuna's values as they stand on a command line and in a folder's name."""
        return {
            key: f"{value:.3g}" if isinstance(value, float) else str(value)
            for key, value in values.items()
        }

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """What draws the next setting; 'bayes' is a tree-structured Parzen estimator."""
        if self.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed)

    def pruner(self) -> optuna.pruners.BasePruner:
        """What stops settings early: successive halving over the number of finished folds.

        After min_iter folds, min_iter × eta, …, a setting goes on if it is among the best 1 / eta.

        Raises:
            ValueError: If early_terminate is not of that kind.
        """
        if not self.prunes:
            return optuna.pruners.NopPruner()
        rule = self.content["early_terminate"]
        if rule.get("type") != "hyperband" or "min_iter" not in rule:
            raise ValueError(f"{self.path}: early_terminate must be hyperband with min_iter.")
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=rule["min_iter"], reduction_factor=rule.get("eta", 3)
        )


def read_sweep(path: str | Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ValueError: If it is missing, or says what the local search or the parser cannot follow.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no sweep file {str(path)!r}. Give SWEEP=configs/sweeps/….yaml.")
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise ValueError(f"{path} is no sweep file: it has no `parameters`.")
    metric = content.get("metric") or {}
    if content.get("method") not in METHODS:
        raise ValueError(f"{path}: method is {content.get('method')!r}, not one of {METHODS}.")
    if metric.get("name") not in {f"cv/{name}" for name in (*NAMES, *MEASURES)}:
        raise ValueError(
            f"{path}: metric.name is {metric.get('name')!r}; choose cv/ and one of {NAMES}, of a "
            f"regression one of {MEASURES}."
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


def _distribution(space: Mapping[str, Any]) -> BaseDistribution:
    if "values" in space or "value" in space:
        return CategoricalDistribution(values_of(space))
    low, high = space["min"], space["max"]
    if space.get("distribution") == "log_uniform_values":
        return FloatDistribution(low, high, log=True)
    is_whole = isinstance(low, int) and space.get("distribution") != "uniform"
    return IntDistribution(low, high) if is_whole else FloatDistribution(low, high)


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


def write_setting(folder: Path, setting: Setting) -> None:
    """Keep a setting next to its results: its folder's name may be a hash."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(json.dumps(dict(setting), indent=2) + "\n", folder / SETTING_NAME)


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
