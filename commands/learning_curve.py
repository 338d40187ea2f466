"""`learning_curve`: the AUROC by the share of the training patients, on the same test patients."""

from dataclasses import dataclass, field

import pandas as pd

from commands.compare import init_name
from commands.finetune import finetune
from commands.runs.command_line import make_parser, parse
from commands.runs.early_check import read_settings
from commands.runs.main_process import say
from commands.runs.run_folder import run_path, write_text
from evaluation.learning_curve import gain_of_twice, learning_curve_sentences
from evaluation.learning_curve import learning_curve as measure
from evaluation.predictions import read_predictions, write_table
from evaluation.report.markdown import markdown_table
from evaluation.report.pictures import draw_learning_curve

RANDOM = "random weights"
NUM_REPEATS = 10  # fewer cannot show a gain


@dataclass(frozen=True)
class LearningCurveOptions:
    """What is trained.

    Args:
        fractions: Shares of a fold's training patients; a smaller one is part of a larger one.
        workers: Processes on this machine that share the folds, with one thread each.
    """

    fractions: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75, 1.0])
    workers: int = 1


def learning_curve(args: list[str]) -> None:
    """Train at every share, from random weights and from INIT, and draw the curves."""
    config = parse(make_parser("learning_curve", LearningCurveOptions), args)
    if config.data.init_args.get("task") == "regression":
        raise ValueError(
            "A learning curve shows the AUROC, which a regression has not. Train on shares one by "
            "one, --data.splits.train_fraction=0.5 and so on, and give the runs to `make compare`."
        )
    folder, fractions = run_path(config.run), sorted(set(config.fractions))
    if not fractions or not 0 < fractions[0] <= fractions[-1] <= 1:
        raise ValueError(f"fractions is {config.fractions}; each must be above 0, up to 1.")
    parts = [name for name in ("fold", "repeat", "only") if config[name] is not None]
    if parts or config.num_tasks > 1:
        raise ValueError(f"A learning curve trains every fold: drop {parts or 'num_tasks'}.")
    arms = {RANDOM: "null"} | (
        {f"from {init_name(vars(config))}": config.init} if config.init else {}
    )
    at = args.index("--fractions") if "--fractions" in args else len(args)  # its value follows
    shared = [each for each in args[:at] + args[at + 2 :] if not each.startswith("--fractions=")]
    if "data.splits.num_repeats" not in read_settings(args):
        shared.append(f"--data.splits.num_repeats={NUM_REPEATS}")
    tables: dict[str, dict[float, pd.DataFrame]] = {name: {} for name in arms}
    for fraction in reversed(fractions):  # the largest first: faults of the table show there
        for name, init in arms.items():
            place = folder / f"{'random' if init == 'null' else 'init'}-{fraction:g}"
            say(f"{fraction:.0%} of the training patients, {name}.")
            own = [f"--run={place}", f"--init={init}", f"--data.splits.train_fraction={fraction}"]
            finetune([*shared, *own])
            if not (place / "predictions.csv").is_file():
                return  # another process trains the last folds
            tables[name][fraction] = read_predictions(place / "predictions.csv")
    curve = measure(tables)
    sentences = learning_curve_sentences(
        curve, {name: gain_of_twice(own) for name, own in tables.items()}
    )
    write_table(curve, folder / "learning_curve.csv")
    draw_learning_curve(curve, folder / "learning_curve.png")
    sections = [f"# Learning curve {folder.name}", *sentences, markdown_table(curve)]
    sections.append("![AUROC by share of the training patients](learning_curve.png)")
    write_text("\n\n".join(sections) + "\n", folder / "report.md")
    say("\n".join([*sentences, f"Report: {folder / 'report.md'}"]))
