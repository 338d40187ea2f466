"""`pretrain`: an encoder on patches of a cohort, for all its patients or fold by fold."""

import time
from dataclasses import dataclass

from callbacks.progress import RunProgress
from commands.reporting.learning_curves import learning_curves
from commands.runs.main_process import is_main_process, say
from commands.runs.prepare import claimed, prepare, unfinished
from commands.runs.pretrain_target import with_target
from commands.runs.resume import resume_point
from commands.runs.run_folder import FoldRun, device_name
from commands.runs.wandb_run import wandb_run
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
    run = prepare("pretrain", with_target(args), PretrainOptions)
    folds = run.fold_runs if run.data.splits_path else [FoldRun(0, 0, run.folder)]
    todo = unfinished(run.config, folds)
    with claimed(run), wandb_run(run, wanted=bool(todo)) as tracker:
        run.describe()
        progress = RunProgress(len(todo), shown=is_main_process())
        with progress.bar:
            for fold_run in todo:
                started = time.monotonic()
                progress.begin(fold_run.name)
                with fold_run.alone():
                    trainer, model, data = run.build(fold_run, [progress], tracker)
                    resume_ckpt = resume_point(fold_run.folder, say, tidy=is_main_process())
                    trainer.fit(model, datamodule=data, ckpt_path=resume_ckpt, weights_only=True)
                    if trainer.is_global_zero:
                        seconds = time.monotonic() - started
                        fold_run.finish({"wall_time_s": seconds, "device": device_name()})
                    trainer.strategy.barrier()
                progress.end()
    finished = [each for each in folds if each.finished]
    if finished and run.does("gather") and is_main_process():
        draw_learning_curves(learning_curves(finished), run.folder / "learning_curves.png")
    say(f"{len(finished)} of {len(folds)} encoders are ready: make finetune INIT={run.folder}")
