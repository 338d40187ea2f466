"""The options of a training, and the parser that reads YAML files and flags."""

import json
from dataclasses import dataclass
from typing import Literal

from jsonargparse import ActionConfigFile, Namespace, set_parsing_settings
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf import OmegaConf

set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
OmegaConf.clear_resolver("oc.env")  # else secrets of the environment end in config.yaml


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept, what it starts from, and which part of it to do.

    Args:
        run: Name of the run, kept in runs/<name>, or a folder.
        init: Run or checkpoint whose encoder is the starting point; None is random weights. Of a
            run that was pretrained fold by fold, each fold takes its own. hf:NAME is an encoder
            of other people (docs/pretraining.md).
        accept_licence: Yes to the licence of an encoder of other people that forbids commercial
            use, or that states none.
        fold: Do this fold alone, in every repeat.
        repeat: Do this repeat alone.
        only: Do one step alone: 'prepare' checks the data, claims the run's folder and fills the
            cache; 'train' trains folds; 'gather' writes the tables, and fails if a fold is missing.
        num_tasks: Share the folds out among as many tasks, each the same command.
        task: Which of these tasks this is, from 0.
        wandb: 'auto' is online where a key is known and the network answers, else offline.
    """

    run: str = "run"
    init: str | None = None
    accept_licence: bool = False
    fold: int | None = None
    repeat: int | None = None
    only: Literal["prepare", "train", "gather"] | None = None
    num_tasks: int = 1
    task: int = 0
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"


def make_parser(verb: str, options: type | None = None) -> LightningArgumentParser:
    """Make the parser of a verb that trains.

    Args:
        verb: Name of the verb.
        options: Dataclass of the options that this verb alone has.
    """
    parser = LightningArgumentParser(
        prog=f"main.py {verb}",
        description="Settings come from YAML files and flags; the last one counts.",
        parser_mode="omegaconf+",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="a YAML file, or several")
    parser.add_argument(
        "--seed_everything", type=int, default=0, help="seed of weights and training"
    )
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({"trainer.use_distributed_sampler": False})
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    parser.add_class_arguments(RunOptions)
    if options is not None:
        parser.add_class_arguments(options)
    return parser


def parse(parser: LightningArgumentParser, args: list[str]) -> Namespace:
    """Parse the YAML files and flags of a verb."""
    return parser.parse_args([word for arg in args for word in _null_as_yaml(arg)])


def _null_as_yaml(arg: str) -> list[str]:
    """Give a nested null as YAML: jsonargparse takes it for the text 'None' in a flag."""
    name, _, value = arg.partition("=")
    if value != "null" or name.count(".") < 2:
        return [arg]
    *groups, last = name.removeprefix("--").split(".")
    settings: dict = {last: None}
    for group in reversed(groups):
        settings = {group: settings}
    return ["-c", json.dumps(settings)]
