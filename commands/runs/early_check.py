"""What is wrong with a command, told before the imports that take seconds.

Names of settings are read from the source of the classes that the settings go to.
"""

import ast
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commands.runs.foundations import find_foundation, is_foundation
from files.run_path import did_you_mean, near_files, run_path
from files.yaml_text import load_yaml, read_yaml

ROOT = Path(__file__).parents[2]
TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
RUN_OPTIONS = "commands.runs.command_line.RunOptions"
EVERYWHERE = ("help", "h", "config", "c", "seed_everything", "print_config")
RUNS = {  # settings that name runs, by what they are called in the Makefile
    "INIT": ("init",),
    "SPLITS": ("data.splits.path", "data.splits_path"),
    "LIKE": ("like",),
    "RUN": ("run",),
    "RUNS": ("runs", "others"),
}
SEVERAL = ("runs", "others")
READS_RUN = ("report", "sanity", "verify", "predict", "evaluate", "export", "features")
Settings = dict[str, Any]  # by dotted names, without `init_args`
Names = dict[str, str | None]  # of parameters, each with the class that it has parameters of


def check_early(verb: str, args: list[str]) -> None:
    """Refuse what needs no import to be seen: files and runs that are missing, misspelt settings.

    Args:
        verb: Name of the verb.
        args: The arguments after the verb.

    Raises:
        ValueError: If there is something.
    """
    settings = read_settings(args)
    if "help" in settings or "h" in settings:
        return
    if names := _names_of_verb(verb, settings):
        for key in settings:
            _check_name(key, names)
        if "trainer" in names and settings.get("data.table") is None:
            raise ValueError("No cohort table given. Give DATA=path/to/table.csv.")
    _check_paths(verb, settings)
    _check_classes(settings.get("data.classes"))


def read_settings(args: list[str]) -> Settings:
    """Collect what YAML files and flags set; the last one counts."""
    settings: Settings = {}
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--" or not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") and len(word) > 2 and word[1] == "c":
            name, equals, value = "c", "=", word[2:].removeprefix("=")
        if not equals and words and not words[0].startswith(("--", "-c", "-h")):
            value = words.pop(0)
        if name in ("c", "config"):
            add_settings(settings, "", _read_yaml(value))
        else:
            add_settings(settings, name.rstrip("+"), value)
    return settings


def _read_yaml(given: str) -> Any:
    """Read a YAML file, or YAML that is given in its place."""
    is_file = not given.lstrip().startswith("{")
    path = Path(given).expanduser()
    if is_file and not path.is_file():
        raise ValueError(f"Settings file {given!r} does not exist.{near_files(path)}")
    content = read_yaml(path) if is_file else load_yaml(given, given)
    if not isinstance(content, dict | None):
        raise ValueError(f"{given} has no `name: value` pairs.")
    return content or {}


def add_settings(settings: Settings, prefix: str, value: Any) -> None:
    """Add settings below a prefix; another class makes those of the class before void."""
    if not isinstance(value, dict):
        settings[prefix] = value
        return
    name = value.get("class_path")
    if name is not None and settings.get(f"{prefix}.class_path", name) != name:
        for key in [key for key in settings if key.startswith(f"{prefix}.")]:
            del settings[key]
    for key, part in value.items():
        place = prefix if key == "init_args" else f"{prefix}.{key}".strip(".").rstrip("+")
        add_settings(settings, place, part)


def _names_of_verb(verb: str, settings: Settings) -> Names | None:
    """Options of a verb; None where they are not known from its source."""
    tree = ast.parse((ROOT / f"commands/{verb}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
            own = _parameters(f"commands.{verb}.{node.name}") or {}
            options = _parameters(RUN_OPTIONS) or {}
            parts = {
                part: None if part in settings else settings.get(f"{part}.class_path")
                for part in ("model", "data")
            }
            return own | options | parts | dict.fromkeys(EVERYWHERE) | {"trainer": TRAINER}
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            called = f"auto_cli({node.name}"
            if called in ast.unparse(tree):
                return dict.fromkeys([arg.arg for arg in node.args.args] + list(EVERYWHERE))
    return None


def _check_name(key: str, names: Names) -> None:
    """Refuse a setting that its class does not have."""
    known: Names | None = names
    *groups, last = key.split(".")
    for position, part in enumerate([*groups, last]):
        if known is None or part in ("class_path", "dict_kwargs"):
            return
        if part not in known:
            given = ".".join([*groups, last][: position + 1])
            raise ValueError(f"There is no setting --{given}.{did_you_mean(part, known)}")
        known = _parameters(owner) if (owner := known[part]) else None


def _check_classes(classes: Any) -> None:
    """Refuse names of classes that YAML reads as numbers or as yes and no."""
    if isinstance(classes, str):
        with suppress(ValueError):
            classes = load_yaml(classes, "classes")
    for name in classes if isinstance(classes, list) else []:
        if isinstance(name, bool):
            raise ValueError(
                "--data.classes: YAML reads yes, no, on and off as true and false. Write each "
                "class in quotes, such as ['no', 'yes']."
            )
        if not isinstance(name, str):
            raise ValueError(
                f"--data.classes: YAML reads {name} as a number. Write each class in quotes, as in "
                f"the table, such as {[str(each) for each in classes]}."
            )


def _check_paths(verb: str, settings: Settings) -> None:
    table = settings.get("data" if verb in ("predict", "evaluate") else "data.table")
    path = Path(str(table)).expanduser()
    if table and "${" not in str(table) and not path.is_file():
        what = f"Cohort table {str(table)!r} does not exist. Check the path in DATA=."
        raise ValueError(what + near_files(path))
    for option, keys in RUNS.items():
        for key in keys:
            given = str(settings.get(key) or "null")
            for name in given.split() if key in SEVERAL else [given]:
                path = run_path(name)
                if name == "null" or "${" in name or path.exists():
                    continue
                if option in ("SPLITS", "LIKE") and Path(name).expanduser().exists():
                    continue
                if option == "INIT" and is_foundation(name):
                    find_foundation(name)
                    continue
                if key != "run" or verb in READS_RUN:
                    where = f"{option} {name!r} does not exist (looked for {path})."
                    raise ValueError(where + near_files(path))


@cache
def _parameters(class_path: str) -> Names | None:
    """Parameters of a class, from its source; None where they are not known from it."""
    module, _, name = class_path.rpartition(".")
    top, *rest = module.split(".")
    spec = find_spec(top) if top else None
    folders = spec.submodule_search_locations if spec else None
    file = Path(next(iter(folders)), *rest).with_suffix(".py") if folders and rest else None
    if file is None or not file.is_file():
        return None
    body = ast.parse(file.read_text(encoding="utf-8")).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    places = {own: f"{module}.{own}" for own in classes} | {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if (found := classes.get(name)) is None:
        return None

    def typed(pairs: Iterable[tuple[str, ast.expr | None]]) -> Names:
        return {own: places.get(ast.unparse(kind)) if kind else None for own, kind in pairs}

    if any("dataclass" in ast.unparse(each) for each in found.decorator_list):
        fields = [node for node in found.body if isinstance(node, ast.AnnAssign)]
        return typed((ast.unparse(node.target), node.annotation) for node in fields)
    methods = [node for node in found.body if isinstance(node, ast.FunctionDef)]
    init = next((node for node in methods if node.name == "__init__"), None)
    own = [*init.args.args[1:], *init.args.kwonlyargs] if init else []
    names = typed((arg.arg, arg.annotation) for arg in own)
    if init and not init.args.kwarg:
        return names
    base = _parameters(places.get(ast.unparse(found.bases[0]), "")) if found.bases else None
    return None if base is None else base | names
