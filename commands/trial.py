"""`trial`: one setting of a sweep, which is one cross-validation and one W&B run."""

import shlex

from commands.finetune import finetune
from commands.grid import parse_known
from commands.runs.main_process import is_main_process
from commands.runs.run_path import run_path
from commands.sweeps.grid_worker import write_setting
from commands.sweeps.sweep_file import read_arguments, setting_arguments, setting_name


def trial(args: list[str]) -> None:
    """Cross-validate the setting that stands after `--`, in the folder that its content names.

    Raises:
        ValueError: If there is none.
    """
    split = args.index("--") if "--" in args else len(args)
    setting = read_arguments(args[split + 1 :])
    if not setting:
        raise ValueError("Say the setting after `--`: main.py trial … -- --model.lr=0.001")
    options, shared = parse_known("trial", args[:split], "run", "given")
    if options.given:
        given, more = parse_known("trial", shlex.split(options.given), "run")
        options.run, shared = options.run or given.run, [*more, *shared]
    folder = run_path(options.run or "sweep") / setting_name(setting)
    if is_main_process():
        write_setting(folder, setting)
    finetune([*shared, *setting_arguments(setting), f"--run={folder}"])
