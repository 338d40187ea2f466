import numpy as np
import pandas as pd
import pytest
from predictions import draw_predictions

from evaluation.comparison import compare_runs
from evaluation.learning_curve import gain_of_twice, learning_curve, learning_curve_sentences
from evaluation.uncertainty import estimates

SHARES = (0.25, 0.5, 1.0)


def _arm(signals, seed):
    return {
        share: draw_predictions(40, signal=signal, num_repeats=2, per_patient=1, seed=seed + n)
        for n, (share, signal) in enumerate(zip(SHARES, signals, strict=True))
    }


@pytest.mark.slow  # types are checked as it runs
def test_the_curve_has_the_figures_of_each_run_and_paired_differences_to_the_first_arm():
    arms = {"random": _arm((0.3, 0.6, 1.0), 0), "transfer": _arm((1.2, 1.2, 1.2), 10)}
    curve = learning_curve(arms)
    assert curve[["arm", "share"]].to_numpy().tolist() == [
        [name, share] for name in arms for share in SHARES
    ]
    for row in curve.itertuples():
        table = arms[row.arm][row.share]
        assert row.auroc == pytest.approx(estimates(table)["auroc"])
        each = [estimates(rows)["auroc"] for _, rows in table.groupby("repeat")]
        assert row.sd == pytest.approx(np.std(each, ddof=1))
        if row.arm == "random":
            assert np.isnan(row.diff)
        else:
            runs = {name: arms[name][row.share] for name in arms}
            paired = compare_runs(runs, "random").loc["transfer"]
            assert row.diff == pytest.approx(paired["auroc_diff"])
            assert row.diff_low == pytest.approx(paired["auroc_diff_low"])


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_a_power_law_is_continued(monkeypatch, power):
    arm = {
        share: pd.DataFrame({"repeat": [0, 1], "share": share, "noise": [-0.001, 0.001]})
        for share in SHARES
    }
    monkeypatch.setattr("evaluation.learning_curve.as_cases", lambda table: table)
    monkeypatch.setattr(
        "evaluation.learning_curve.estimates",
        lambda rows: {"auroc": 1 - 0.1 * rows["share"].iloc[0] ** -power + rows["noise"].iloc[0]},
    )
    gain, low, high = gain_of_twice(arm)
    assert gain == pytest.approx(0.1 - 0.1 * 2**-power, abs=1e-4)
    assert low <= gain <= high
    assert gain_of_twice({share: arm[share] for share in SHARES[:2]}) is None


@pytest.mark.slow  # types are checked as it runs
def test_the_sentences_tell_where_the_second_arm_is_ahead():
    arms = {"random": _arm((0.0, 1.0, 1.0), 0), "from heads": _arm((3.0, 1.0, -2.0), 10)}
    gains = {name: gain_of_twice(arm) for name, arm in arms.items()}
    *beyond, verdict = learning_curve_sentences(learning_curve(arms), gains)
    assert len(beyond) == 2
    assert all("extrapolation" in sentence for sentence in beyond)
    assert verdict.startswith("from heads is ahead at 25% of the patients and is behind at 100%")
    alone = learning_curve_sentences(learning_curve({"random": arms["random"]}), {"random": None})
    assert alone == ["random: too few shares or repeats to look beyond the curve."]
