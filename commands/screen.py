"""`screen`: linear and MLP probes of a frozen encoder, the heads of all folds trained together.

Each setting is a run of its own, and is trained as `finetune --model.freeze_encoder=true` would
train it: the same folds, first weights, batches, augmented versions, dropout and choice of the
epoch. The encoder's outputs are computed once, and kept in float16.
"""

import itertools
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import pandas as pd
from jsonargparse import Namespace

from commands.reporting.page import write_page
from commands.reporting.results import write_results
from commands.runs.command_line import CommandLine, RunOptions
from commands.runs.main_process import say
from commands.runs.run_folder import (
    FoldRun,
    claim,
    fold_folder,
    keep_splits,
    read_json,
    run_path,
    write_text,
)
from commands.training.frozen_features import FrozenFold, Scale, open_fold
from commands.training.init_match import init_match
from commands.training.probes import train_probes
from commands.training.train_cells import resolved_config
from evaluation.predictions import read_predictions, write_table
from evaluation.screening import screen_table, screen_text

CONFIGURED = ("seed_everything", "data", "model", "trainer", "init")
CHOSEN = "chosen"  # the sub-run of what the validation patients of each fold choose
CHOSEN_METHOD = "in each fold the probe that its validation patients rank first"
Setting = dict[str, float]


@dataclass(frozen=True)
class ScreenOptions:
    """Which heads are tried on the frozen encoder; every combination is one setting.

    Args:
        nodes: Nodes of the head's hidden layer; 0 is a linear probe. None is 0, 16, 32 and 64 for
            the paper's network, and 0 for other backbones, whose head is linear.
        lrs: Learning rates of AdamW; None is the model's.
        weight_decays: Weight decays of AdamW; None is the model's.
        dropouts: Shares of the head's inputs dropped while training; None is the model's.
        scale: Intensity scale of the encoder's inputs: 'init' is what INIT was trained with, the
            same for all folds where they have the same encoder, so that the scans are encoded
            once; 'fold' is fitted on each fold's training scans, as in fine-tuning, and takes an
            encoding for each fold. None is init where there is an INIT, else fold.
    """

    nodes: list[int] | None = None
    lrs: list[float] | None = None
    weight_decays: list[float] | None = None
    dropouts: list[float] | None = None
    scale: Scale | None = None


def screen(args: list[str]) -> None:
    """Cross-validate every setting, and rank them."""
    cli = CommandLine("screen", args, options=ScreenOptions)
    folder, settings = run_path(cli.config.run), probe_settings(cli)
    logging.getLogger("lightning_modules").setLevel(logging.WARNING)  # else a line for each fold
    cli.config.model.init_args.freeze_encoder = True
    scale: Scale = cli.config.scale or ("init" if cli.config.init else "fold")
    say(f"Run {folder}: {len(settings)} probes of {len(cli.data.fold_runs())} folds. {cli.plan}")
    for line in [*init_match(cli), *cli.data.split_warnings()]:
        say(line)

    @cache
    def opened(repeat: int, fold: int) -> FrozenFold:
        return open_fold(cli, repeat, fold, scale)

    for name, setting in settings.items():
        cli.config.model.init_args.update(Namespace(**setting))
        probe = f"MLP probe, {setting['nodes']} nodes," if setting["nodes"] else "linear probe"
        _claim(cli, folder / name, f"{probe} on a frozen encoder", {"scale": scale})
        _cross_validate(cli, folder / name, opened)
    if len(settings) > 1:
        _choose_in_each_fold(cli, folder, list(settings))
    metrics = {name: read_json(folder / name / "metrics.json") for name in settings}
    table = screen_table(settings, metrics)
    chosen = read_json(folder / CHOSEN / "metrics.json") if len(settings) > 1 else None
    text = screen_text(table, chosen, _fine_tuning(args, cli, settings[str(table["run"][0])]))
    write_table(table, folder / "screen.csv")
    write_text(text, folder / "screen.md")
    say(text)


def _cross_validate(
    cli: CommandLine, folder: Path, opened: Callable[[int, int], FrozenFold]
) -> None:
    cells = [FoldRun(r, f, fold_folder(folder, r, f)) for r, f in cli.data.fold_runs()]
    if todo := [cell for cell in cells if not cell.finished]:
        train_probes(cli, [(cell, opened(cell.repeat, cell.fold)) for cell in todo])
    _write_run(cli, folder, [cell.folder for cell in cells])


def _choose_in_each_fold(cli: CommandLine, folder: Path, names: list[str]) -> None:
    """Gather for each fold what the setting predicts that its validation patients rank first."""
    _claim(cli, folder / CHOSEN, CHOSEN_METHOD, {"settings": names})
    best = []
    for repeat, fold in cli.data.fold_runs():
        places = [fold_folder(folder / name, repeat, fold) for name in names]
        best.append(max(places, key=lambda place: read_json(place / "finished.json")["key"]))
    _write_run(cli, folder / CHOSEN, best)


def _claim(cli: CommandLine, folder: Path, method: str, more: dict[str, object]) -> None:
    config = {key: resolved_config(cli)[key] for key in CONFIGURED}
    facts = {
        "seed": cli.config.seed_everything,
        "init": cli.config.init,
        "method": f"Method: {method}.",
        "data_hash": cli.data.cohort.content_hash(),
        "preprocessing": cli.plan,
    }
    claim(folder, config | {"method": method, "features": "encoder"} | more, facts)
    keep_splits(cli.data.splits_table, folder)


def _write_run(cli: CommandLine, folder: Path, cells: list[Path]) -> None:
    if (folder / "report.html").is_file():
        say(f"{folder.name} is finished already.")
        return

    def gather(name: str) -> pd.DataFrame:
        return pd.concat([read_predictions(cell / name) for cell in cells], ignore_index=True)

    validated = all((cell / "validation.csv").is_file() for cell in cells)
    validation = gather("validation.csv") if validated else None
    seconds = sum(read_json(cell / "finished.json")["wall_time_s"] for cell in cells)
    print(f"{folder.name}: ", end="")
    made = {"wall_time_s": seconds}
    write_results(folder, cli.data.cohort, gather("predictions.csv"), made, validation)
    write_page(folder)


def probe_settings(cli: CommandLine) -> dict[str, Setting]:
    """Every combination by the name of its sub-run, which tells what differs between them.

    Raises:
        ValueError: If something is asked for that cannot be done on cached features.
    """
    _refuse_what_features_cannot_follow(cli)
    options, model = cli.config, cli.config.model.init_args
    values = {
        "nodes": options.nodes or ([0, 16, 32, 64] if model.backbone == "mctl" else [0]),
        "lr": options.lrs or [model.lr],
        "weight_decay": options.weight_decays or [model.weight_decay],
        "dropout": options.dropouts or [model.dropout],
    }
    if model.backbone != "mctl" and values["nodes"] != [0]:
        raise ValueError(
            f"The head of backbone {model.backbone!r} is one linear layer: drop --nodes."
        )
    settings = {}
    for combination in itertools.product(*values.values()):
        setting = dict(zip(values, combination, strict=True))
        parts = [f"mlp{setting['nodes']}" if setting["nodes"] else "linear"]
        parts += [f"{key}{setting[key]:g}" for key in list(values)[1:] if len(values[key]) > 1]
        settings["-".join(parts)] = setting
    return settings


def _refuse_what_features_cannot_follow(cli: CommandLine) -> None:
    options, model, trainer = cli.config, cli.config.model, cli.config.trainer
    parts = any(options[name] is not None for name in ("fold", "repeat", "only"))
    if parts or options.num_tasks > 1:
        raise ValueError("A screen trains all folds together: drop FOLD, REPEAT, only, num_tasks.")
    if model.class_path != "lightning_modules.classifier.Classifier":
        raise ValueError(
            f"A screen needs the 3D classifier, not {model.class_path}: drop its YAML. "
            "For classical methods on the outputs of a 2D network say make rivals."
        )
    if options.scale == "init" and not options.init:
        raise ValueError("The scale 'init' is that of a pretrained run: say INIT=, or drop it.")
    if model.init_args.mixup:
        raise ValueError("MixUp blends voxels, not features: drop --model.mixup.")
    if options.data.init_args.augmentation.mode == "fresh":
        raise ValueError(
            "Fresh copies at every epoch have no features to keep: say "
            "--data.augmentation.mode=bank, or none."
        )
    if any(each.class_path.endswith(".EarlyStopping") for each in trainer.callbacks or []):
        raise ValueError(
            "The heads of all folds take the same number of epochs: drop EarlyStopping from "
            "trainer.callbacks; the best epoch of each is kept anyway."
        )
    for name, plain in (("gradient_clip_val", (None, 0)), ("accumulate_grad_batches", (None, 1))):
        if trainer[name] not in plain:
            raise ValueError(f"The heads are not trained with trainer.{name}: drop it.")


def _fine_tuning(args: list[str], cli: CommandLine, setting: Setting) -> str:
    """The command that trains the whole network with a setting."""
    own = {f"--{option.name}" for option in fields(ScreenOptions)}
    own |= {f"--{option.name}" for option in fields(RunOptions) if option.name != "init"}
    kept = [argument for argument in args if argument.partition("=")[0] not in own]
    kept += [f"--run={cli.config.run}-finetuned"]
    kept += [f"--model.{name}={value}" for name, value in setting.items()]
    return shlex.join(["python", "main.py", "finetune", *kept])
