"""`pretrain`: an autoencoder on patches of a cohort, for all its patients or fold by fold."""

from dataclasses import dataclass

from commands.reporting.learning_curves import learning_curves
from commands.runs.command_line import CommandLine
from commands.runs.main_process import is_main_process, say
from commands.runs.run_folder import FoldRun, fold_folder
from commands.training.pretrain_target import with_target
from commands.training.train_cells import does, open_run, train_cells, unfinished_folds
from commands.training.wandb_run import wandb_run
from evaluation.report.pictures import draw_learning_curves


@dataclass(frozen=True)
class PretrainOptions:
    """What the pretraining is for.

    Args:
        like: Run or cohort table that will start from it: its voxel size, window and other
            preprocessing are taken, unless a YAML file or flag of yours says otherwise.
    """

    like: str | None = None


def pretrain(args: list[str]) -> None:
    """Train the configured model on the configured patches, and keep its best weights."""
    cli = CommandLine("pretrain", with_target(args), options=PretrainOptions)
    if cli.config.like and not any(arg.startswith("--like") for arg in args):
        raise ValueError("like is set in a YAML file, where it has no effect: give LIKE= instead.")
    folder = open_run(cli)
    cells = [
        FoldRun(repeat, fold, fold_folder(folder, repeat, fold) if cli.data.splits_path else folder)
        for repeat, fold in cli.data.fold_runs()
    ]
    todo = unfinished_folds(cli, cells)
    with wandb_run(cli, folder, wanted=bool(todo)) as tracker:
        for _fitted in train_cells(cli, todo, tracker):
            pass
    finished = [cell for cell in cells if cell.finished]
    if finished and does(cli, "gather") and is_main_process():
        draw_learning_curves(learning_curves(finished), folder / "learning_curves.png")
    say(f"{len(finished)} of {len(cells)} encoders are ready: make finetune INIT={folder}")
