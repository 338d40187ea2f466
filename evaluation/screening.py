"""What a screen of many settings has found, and what its best figure is not."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

RANKED_BY = ["auroc", "balanced_accuracy"]


def screen_table(
    settings: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """Rank settings by cross-validated AUROC, then balanced accuracy; the best comes first.

    Args:
        settings: Values of each setting by its name.
        metrics: The content of each one's metrics.json.

    Returns:
        One row per setting: run, its values, and mean and sd over repeats of both figures, with
        the interval of the AUROC.
    """
    rows = []
    for name, setting in settings.items():
        row = {"run": name} | dict(setting)
        for figure in RANKED_BY:
            row |= {figure: metrics[name]["mean"][figure]}
            row |= {f"{figure}_sd": metrics[name]["sd"][figure]}
        row["auroc_low"], row["auroc_high"] = metrics[name]["interval_95"]["auroc"]
        rows.append(row)
    return pd.DataFrame(rows).sort_values(
        RANKED_BY, ascending=False, kind="stable", ignore_index=True
    )


def screen_text(table: pd.DataFrame, chosen: Mapping[str, Any] | None, command: str) -> str:
    """Write the ranking as Markdown, with what the choice does to the best figure.

    Args:
        table: What `screen_table` returns.
        chosen: metrics.json of the run in which each fold's validation patients choose the
            setting; None where there is but one.
        command: Command that trains the whole network with the best setting.
    """
    lines = ["| probe | AUROC | 95 % interval | balanced accuracy |", "|---|---|---|---|"]
    for row in table.to_dict("records"):
        lines.append(
            f"| {row['run']} | {_spread(row, 'auroc')} | {row['auroc_low']:.3f} to "
            f"{row['auroc_high']:.3f} | {_spread(row, 'balanced_accuracy')} |"
        )
    sections = ["# Screen of a frozen encoder", "\n".join(lines)]
    if chosen is not None:
        mean, (low, high) = chosen["mean"], chosen["interval_95"]["auroc"]
        sections.append(
            f"**The best of {len(table)} settings on the same folds is optimistic:** some of its "
            "lead is luck that new patients will not repeat. Where each fold's validation patients "
            f"choose the setting instead (`chosen`): AUROC {mean['auroc']:.3f} (95 % interval "
            f"{low:.3f} to {high:.3f}), balanced accuracy {mean['balanced_accuracy']:.3f}."
        )
        if chosen["protocol"] == "paper":
            sections.append("By protocol `paper` these are the test patients: optimistic as well.")
    sections.append(f"The whole network with the first setting:\n\n```sh\n{command}\n```")
    return "\n\n".join(sections) + "\n"


def _spread(row: Mapping[Any, Any], name: str) -> str:
    sd = row[f"{name}_sd"]
    return f"{row[name]:.3f}" + ("" if sd is None or sd != sd else f" ± {sd:.3f}")
