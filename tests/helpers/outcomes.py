"""What two runs must have in common if one of them was interrupted."""

import pandas as pd
import torch

from commands.reporting.learning_curves import learning_curves
from commands.runs.run_folder import FoldRun


def assert_same_outcome(whole, broken, *, killed=False):
    """Compare weights and tables of two run folders, bit by bit.

    Also the curves, unless it was killed: an epoch's row may then be lost.
    """
    checkpoints = sorted(path.relative_to(whole) for path in whole.rglob("best.ckpt"))
    assert checkpoints
    for path in checkpoints:
        one, two = (torch.load(run / path, weights_only=True) for run in (whole, broken))
        assert one["epoch"] == two["epoch"]
        assert one["state_dict"].keys() == two["state_dict"].keys()
        for name, weight in one["state_dict"].items():
            assert torch.equal(weight, two["state_dict"][name]), f"{path}: {name}"
    if not killed:
        curves = [_curves(run, {path.parent for path in checkpoints}) for run in (whole, broken)]
        pd.testing.assert_frame_equal(*curves, check_like=True)
    for path in sorted(whole.rglob("*.csv")):
        if path.name in ("predictions.csv", "validation.csv", "ranking.csv", "splits.csv"):
            assert path.read_bytes() == (broken / path.relative_to(whole)).read_bytes(), path


def _curves(run, folders):
    folds = [FoldRun(0, 0, run / folder) for folder in sorted(folders)]
    return learning_curves(folds).drop(columns="fold_run")
