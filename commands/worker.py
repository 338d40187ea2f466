"""`worker`: one process of a grid or of a local search; any number may share a folder."""

from commands.grid import parse_known
from commands.runs.run_path import run_path
from commands.sweeps.grid_worker import setting_run, work, write_setting
from commands.sweeps.search import search
from commands.sweeps.sweep_file import read_sweep


def worker(args: list[str]) -> None:
    """Train until nothing is left of the grid, or the search has tried enough."""
    options, arguments = parse_known("worker", args, "sweep", "run")
    sweep, folder = read_sweep(options.sweep), run_path(options.run or "grid")
    if sweep.method != "grid":
        search(sweep, folder, arguments)
        return
    settings = list(sweep.settings())
    runs = [setting_run(arguments, folder, setting) for setting in settings]
    for run, setting in zip(runs, settings, strict=True):
        write_setting(run.folder, setting)
    work(runs)
