"""Search among settings without W&B's server: Optuna proposes, the folders remember.

What the next setting is depends on the settings that have a folder and on nothing else, so that a
search goes on after any stop, and several workers share it.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from commands.runs.main_process import say
from commands.runs.run_folder import write_json
from commands.sweeps.grid_worker import (
    WAIT_S,
    SettingRun,
    failures_written_down,
    setting_run,
    write_setting,
)
from commands.sweeps.sweep_file import Setting, Sweep, setting_name, values_of
from commands.sweeps.sweep_table import (
    PRUNED_NAME,
    failed,
    is_gathered,
    read_settings,
    running_figures,
)
from commands.sweeps.worker_claim import Claim, claimed

DRAWS = 100  # of one that is not known yet, before a space counts as exhausted


def search(sweep: Sweep, folder: Path, arguments: Sequence[str]) -> None:
    """Try settings until there are as many as the sweep file's run_cap says.

    One that was begun and has no worker comes first.

    Args:
        sweep: The sweep, of method 'random' or 'bayes'.
        folder: Folder of the settings.
        arguments: What all settings share.

    Raises:
        ValueError: If the sweep file has no run_cap.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    num_trials = sweep.content.get("run_cap")
    if not isinstance(num_trials, int):
        raise ValueError(f"{sweep.path} has no run_cap: say how many settings to try.")
    while True:
        known = read_settings(folder)
        open_ones = {place: setting for place, setting in known.items() if not is_over(place)}
        if any(_try(sweep, folder, arguments, setting) for setting in open_ones.values()):
            continue
        new = draw(sweep, known) if len(known) < num_trials else None
        if new is not None:
            _try(sweep, folder, arguments, new)
        elif open_ones:
            time.sleep(WAIT_S)  # for what other workers have, should they die
        else:
            return


def is_over(folder: Path) -> bool:
    """Whether a setting's run is finished, stopped early or failed."""
    failures = [folder, *folder.glob("repeat*_fold*")]
    return is_gathered(folder) or (folder / PRUNED_NAME).is_file() or any(map(failed, failures))


def _try(sweep: Sweep, folder: Path, arguments: Sequence[str], setting: Setting) -> bool:
    """Cross-validate a setting unless another worker has it; answer whether this one did."""
    place = folder / setting_name(setting)
    with claimed(place) as claim:
        if claim is None or is_over(place):
            return False
        write_setting(place, setting)
        with failures_written_down(place, place.name):
            run = setting_run(arguments, folder, setting)
            if _cross_validate(sweep, run, claim):
                run.gather()
            else:
                write_json({"folds": running_figures(place)[0]}, place / PRUNED_NAME)
                say(f"{place.name}: stopped early")
    return True


def _cross_validate(sweep: Sweep, run: SettingRun, claim: Claim) -> bool:
    """Train the folds in their order; answer False if it was stopped early."""
    rungs = set(rungs_of(sweep, len(run.fold_runs)))
    for place, cell in enumerate(run.fold_runs):
        if not cell.finished:
            run.train(cell, claim)
        if place + 1 in rungs:
            values = _values_after(sweep, run.folder.parent, place + 1)
            own = values.pop(run.folder, math.nan)
            eta = sweep.content["early_terminate"].get("eta", 3)
            if is_behind(own, list(values.values()), eta, maximize=sweep.maximize):
                return False
    return True


def rungs_of(sweep: Sweep, num_folds: int) -> Iterator[int]:
    """Numbers of folds after which a setting may be stopped: min_iter, times eta, times eta, ….

    Raises:
        ValueError: If early_terminate is not of that kind.
    """
    rule = sweep.content.get("early_terminate")
    if rule is None:
        return
    if rule.get("type") != "hyperband" or "min_iter" not in rule:
        raise ValueError(f"{sweep.path}: early_terminate must be hyperband with min_iter.")
    rung = rule["min_iter"]
    while rung < num_folds:
        yield int(rung)
        rung *= rule.get("eta", 3)


def is_behind(value: float, others: Sequence[float], eta: float, *, maximize: bool) -> bool:
    """Whether a setting is not in the best 1/eta of those that came as far (W&B's `strict` rule).

    Args:
        value: Its figure.
        others: Figures of the other settings after as many folds.
        eta: One in how many goes on.
        maximize: Whether more is better.
    """
    ordered = sorted([value, *others], reverse=maximize)
    threshold = ordered[int(len(ordered) / eta)]
    return value < threshold if maximize else value > threshold


def _values_after(sweep: Sweep, folder: Path, num_folds: int) -> dict[Path, float]:
    """The figure of every setting after its first folds, where it came as far."""
    values = {}
    for place in read_settings(folder):
        number, figures = running_figures(place, num_folds)
        if number == num_folds and sweep.measure in figures:
            values[place] = figures[sweep.measure]
    return values


def draw(sweep: Sweep, known: dict[Path, dict[str, str]]) -> Setting | None:
    """Propose a setting that is not known yet; None if none is found.

    Args:
        sweep: The sweep; 'bayes' is a tree-structured Parzen estimator.
        known: The settings that have a folder.
    """
    space = {key: distribution(values) for key, values in sweep.parameters.items()}
    trials = [
        _known_trial(sweep, space, place, setting)
        for place, setting in known.items()
        if _is_in(space, setting)  # the sweep file may have been another when it was tried
    ]
    for attempt in range(DRAWS):
        seed = len(known) * DRAWS + attempt
        sampler: Any = optuna.samplers.RandomSampler(seed)
        if sweep.method == "bayes":
            sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(
            sampler=sampler, direction="maximize" if sweep.maximize else "minimize"
        )
        study.add_trials(trials)
        drawn = study.ask(space).params
        setting = {key: _text(drawn[key]) for key in space}
        if setting not in known.values():
            return setting
    return None


def _text(value: Any) -> str:
    """Write a drawn value as it stands on a command line and in a folder's name."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def distribution(space: dict[str, Any]) -> BaseDistribution:
    """Translate the space of a parameter for Optuna."""
    if "values" in space or "value" in space:
        return CategoricalDistribution(values_of(space))
    low, high = space["min"], space["max"]
    if space.get("distribution") == "log_uniform_values":
        return FloatDistribution(low, high, log=True)
    is_whole = isinstance(low, int) and space.get("distribution") != "uniform"
    return IntDistribution(low, high) if is_whole else FloatDistribution(low, high)


def _is_in(space: dict[str, BaseDistribution], setting: Setting) -> bool:
    return setting.keys() == space.keys() and all(
        setting[key] in kind.choices
        for key, kind in space.items()
        if isinstance(kind, CategoricalDistribution)
    )


def _known_trial(
    sweep: Sweep, space: dict[str, BaseDistribution], place: Path, setting: Setting
) -> FrozenTrial:
    params: dict[str, Any] = {}
    for key, kind in space.items():
        text = setting[key]
        if isinstance(kind, FloatDistribution):  # rounding may lead past an end
            params[key] = min(max(float(text), kind.low), kind.high)
        else:
            params[key] = int(text) if isinstance(kind, IntDistribution) else text
    folds, figures = running_figures(place)
    value = figures.get(sweep.measure)
    if not is_over(place):
        return create_trial(state=TrialState.RUNNING, params=params, distributions=space)
    if value is None or not (is_gathered(place) or (place / PRUNED_NAME).is_file()):
        return create_trial(state=TrialState.FAIL, params=params, distributions=space)
    if is_gathered(place):
        return create_trial(value=value, params=params, distributions=space)
    return create_trial(
        state=TrialState.PRUNED,
        params=params,
        distributions=space,
        intermediate_values={folds: value},
    )
