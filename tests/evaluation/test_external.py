import numpy as np
import pytest
from predictions import draw_predictions

from evaluation.external import drops, external_sentences, recalibration
from evaluation.intervals import headline_intervals
from evaluation.uncertainty import estimates


def test_the_drop_is_the_difference_of_the_two_figures():
    home, away = draw_predictions(80, signal=2.0), draw_predictions(60, signal=0.5, seed=1)
    for name, found in drops(home, away).items():
        first, second = estimates(home)[name], estimates(away)[name]
        assert found["drop"] == pytest.approx(first - second)
        (low, _), (_, highest) = headline_intervals(home)[name], headline_intervals(away)[name]
        reach = np.hypot(first - low, highest - second)
        assert found["interval_95"][0] == pytest.approx(first - second - reach)


@pytest.mark.slow
@pytest.mark.parametrize(("home", "away"), [(1.5, 0.7), (1.0, 1.0)])
def test_a_drop_is_inside_its_interval_in_95_of_100_cohorts(home, away):
    true = {
        name: found["drop"]
        for name, found in drops(
            draw_predictions(10_000, signal=home), draw_predictions(10_000, signal=away, seed=1)
        ).items()
    }
    inside = dict.fromkeys(true, 0)
    for seed in range(120):
        found = drops(
            draw_predictions(80, signal=home, num_repeats=2, per_patient=1, seed=2 * seed + 2),
            draw_predictions(50, signal=away, num_repeats=3, per_patient=1, seed=2 * seed + 3),
        )
        for name, truth in true.items():
            low, high = found[name]["interval_95"]
            inside[name] += low <= truth <= high
    assert min(inside.values()) >= 0.93 * 120


@pytest.mark.slow
def test_new_intercepts_undo_another_share_of_the_classes_and_nothing_else():
    cases = draw_predictions(4000, signal=1.0, per_patient=1, seed=5)
    rare = cases[(cases["label"] == "healthy") | (cases.index % 10 == 1)]
    found = recalibration(rare)
    assert found["intercepts"]["ece"] < found["as_predicted"]["ece"] / 2
    assert found["intercepts"]["brier"] < found["as_predicted"]["brier"]


def test_the_sentences_name_the_run_and_the_verdict():
    home, away = draw_predictions(200, signal=3.0), draw_predictions(200, signal=0.3, seed=1)
    worse = external_sentences("knees", drops(home, away), recalibration(away))
    assert "`knees`" in worse[0]
    assert worse[0].endswith("it is worse here.")
    same = external_sentences("knees", drops(home, home), recalibration(home))
    assert same[0].endswith("a difference is not shown.")
    better = external_sentences("knees", drops(away, home), recalibration(home))
    assert better[0].endswith("it is better here.")
