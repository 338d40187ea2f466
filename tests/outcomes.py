"""What two runs must have in common if one of them was interrupted."""

import torch


def assert_same_outcome(whole, broken):
    """Compare weights and tables of two run folders, bit by bit."""
    checkpoints = sorted(path.relative_to(whole) for path in whole.rglob("best.ckpt"))
    assert checkpoints
    for path in checkpoints:
        one, two = (torch.load(run / path, weights_only=True) for run in (whole, broken))
        assert one["epoch"] == two["epoch"]
        assert one["state_dict"].keys() == two["state_dict"].keys()
        for name, weight in one["state_dict"].items():
            assert torch.equal(weight, two["state_dict"][name]), f"{path}: {name}"
    for path in sorted(whole.rglob("*.csv")):
        if path.name in ("predictions.csv", "validation.csv", "ranking.csv", "splits.csv"):
            assert path.read_bytes() == (broken / path.relative_to(whole)).read_bytes(), path
