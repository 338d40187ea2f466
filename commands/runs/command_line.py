"""LightningCLI in this project's mode, with what only the cohort can tell filled in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import numpy as np
from jsonargparse import Namespace, set_parsing_settings
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf import OmegaConf
from typing_extensions import override

from callbacks.model_contract import refuse_incomplete
from callbacks.required import required_callbacks
from commands.runs.run_folder import planned_budget
from commands.runs.run_path import run_path
from datamodules.fingerprint import default_budget
from lightning_modules.transfer import check_start

set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
OmegaConf.clear_resolver("oc.env")  # else secrets of the environment end in config.yaml


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept, what it starts from, and which part of it to do.

    Args:
        run: Name of the run, kept in runs/<name>, or a folder.
        init: Run or checkpoint whose encoder is the starting point; None is random weights. Of a
            run that was pretrained fold by fold, each fold takes its own.
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
    fold: int | None = None
    repeat: int | None = None
    only: Literal["prepare", "train", "gather"] | None = None
    num_tasks: int = 1
    task: int = 0
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"


class CommandLine(LightningCLI):
    """Parse the YAML files and flags of one verb.

    Args:
        verb: Name of the verb.
        args: The arguments after the verb.
        options: Dataclass of the options that this verb alone has.
    """

    def __init__(self, verb: str, args: list[str], options: type | None = None) -> None:
        self.options = options
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False},
            parser_kwargs={
                "parser_mode": "omegaconf+",
                "allow_abbrev": False,
                "exit_on_error": False,
                "prog": f"main.py {verb}",
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
            run=False,
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunOptions)
        if self.options is not None:
            parser.add_class_arguments(self.options)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    @override
    def before_instantiate_classes(self) -> None:
        """Check the data, plan their preprocessing, tell the model what it asks of them."""
        settings = self.config
        preprocessing = settings.data.init_args.preprocessing
        if preprocessing.spatial_shape is None and preprocessing.voxel_budget is None:
            begun = planned_budget(run_path(settings.run))
            preprocessing.voxel_budget = begun or default_budget(settings.trainer.accelerator)
        self.data = self.parser.instantiate(Namespace(data=settings.data.clone())).data
        self.check = self.data.cohort.check(self.data.expectations)
        self.plan = self.data.cohort.plan()
        settings.data.init_args.preprocessing.update(
            Namespace(vars(self.data.cohort.preprocessing))
        )
        for name, value in self.data.facts().items():
            if name in settings.model.init_args:
                settings.model.init_args[name] = value

    @override
    def instantiate_classes(self) -> None:
        """Leave it to `build`, which makes the objects of one fold at a time."""

    def build(
        self, repeat: int, fold: int, init_ckpt: str | None, **trainer_settings: Any
    ) -> tuple[Trainer, LightningModule, LightningDataModule]:
        """Build trainer, model and data of one fold from the configuration, seeded.

        Args:
            repeat: Repeat of the fold.
            fold: The fold.
            init_ckpt: Checkpoint to start from; None is random weights.
            trainer_settings: What differs from the configured trainer; callbacks are added to
                the configured ones.
        """
        settings = self.config.clone()
        settings.data.init_args.update(Namespace(repeat=repeat, fold=fold))
        if init_ckpt is not None:
            if "init_ckpt" not in settings.model.init_args:
                raise ValueError(f"{settings.model.class_path} cannot start from a run: drop INIT.")
            settings.model.init_args.init_ckpt = init_ckpt
        init_ckpt = settings.model.init_args.get("init_ckpt")
        seed = fold_seed(settings.seed_everything, repeat, fold)
        lightning.seed_everything(seed, workers=True, verbose=False)
        objects = self.parser.instantiate(settings)
        configured: Mapping[str, Any] = vars(objects.trainer)
        refuse_incomplete(objects.model, objects.data)
        seen = check_start(init_ckpt, objects.data)
        callbacks = [*(configured["callbacks"] or []), *trainer_settings.pop("callbacks", [])]
        settings_of_trainer = {**configured, **trainer_settings}
        settings_of_trainer["callbacks"] = required_callbacks(callbacks, seen)
        trainer = Trainer(**settings_of_trainer)
        return trainer, objects.model, objects.data


def fold_seed(seed: int, repeat: int, fold: int) -> int:
    """Seed of everything random in the training of one fold."""
    return int(np.random.SeedSequence((seed, repeat, fold)).generate_state(1)[0])
