import numpy as np
import pandas as pd
import pytest
from predictions import draw_predictions

import main
from evaluation.comparison import compare_runs
from evaluation.predictions import read_predictions
from evaluation.report.comparison import latex_table, performance_table, verdicts


def _compare(tmp_path, runs, *arguments):
    names = " ".join(str(tmp_path / run) for run in runs)
    return main.main(["compare", f"--runs={names}", f"--run={tmp_path / 'cmp'}", *arguments])


@pytest.fixture
def two_runs(write_cohort, run_verb, tmp_path):
    table = write_cohort(12)
    for name in ("arms/first", "arms/second"):
        seed = f"--seed_everything={len(name)}"
        assert run_verb("finetune", table, name, seed, epochs=1) == 0
    return tmp_path


@pytest.mark.slow
def test_a_folder_of_runs_gives_a_row_for_each_and_votes_rows_of_their_own(two_runs, capsys):
    assert _compare(two_runs, ["arms"], "--ensemble=first second", "--reference=second") == 0
    assert "against second" in capsys.readouterr().out
    table = pd.read_csv(two_runs / "cmp/comparison.csv", index_col="run")
    assert table.index.tolist() == ["first", "second", "soft vote", "hard vote"]
    assert np.isnan(table.loc["second", "auroc_diff"])
    votes = read_predictions(two_runs / "cmp/soft_vote/predictions.csv")
    members = [
        read_predictions(two_runs / f"arms/{n}/predictions.csv") for n in ("first", "second")
    ]
    assert len(votes) == len(members[0])
    for name in ("report.md", "comparison.tex", "performance.png", "learning_curves.png"):
        assert (two_runs / "cmp" / name).stat().st_size > 100


@pytest.mark.slow
def test_runs_that_test_the_same_patients_are_paired_whoever_validates(
    write_cohort, run_verb, tmp_path
):
    table = write_cohort(12)
    for name, fraction in (("first", 0), ("second", 0.2)):
        given = f"--data.splits.val_fraction={fraction}"
        assert run_verb("finetune", table, name, given, epochs=1) == 0
    assert _compare(tmp_path, ["first", "second"]) == 0
    report = (tmp_path / "cmp/report.md").read_text()
    assert "Trained on other patients than first, tested on the same: second." in report
    assert (tmp_path / "cmp/learning_curves.png").stat().st_size > 100


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_refused_in_one_line(
    two_runs, write_cohort, run_verb, capsys
):
    table = write_cohort(12)
    assert run_verb("finetune", table, "other", "--data.splits.seed=1", epochs=1) == 0
    assert run_verb("finetune", table, "part", "--fold=0", epochs=1) == 0
    capsys.readouterr()
    for runs, words in (
        (["arms/first", "other"], "have different folds: "),
        (["arms/first", "part"], "is not finished"),
        (["arms/first", "nowhere"], "nowhere' does not exist"),
        (["arms/first"], "needs two or more"),
        (["arms/first", "arms/first"], "named twice"),
    ):
        assert _compare(two_runs, runs) == 2
        assert words in capsys.readouterr().err
    assert _compare(two_runs, ["arms"], "--reference=third") == 2
    assert "'third' is not among the compared runs: first, second" in capsys.readouterr().err


def _comparison(gain):
    low = draw_predictions(100, signal=0.5, num_repeats=3)
    high = draw_predictions(100, signal=0.5 + gain, num_repeats=3, seed=1)
    return compare_runs({"random": low, "transfer": high}, "random")


@pytest.mark.slow
def test_the_verdict_says_whether_transfer_helped():
    for gain, words in (
        (2.0, "Transfer from source helped"),
        (0.0, "Transfer from source did neither help nor harm beyond chance"),
        (-2.0, "Transfer from source did harm"),
    ):
        (sentence,) = verdicts(_comparison(gain), "random", {"transfer": "source"})
        assert sentence.startswith(words)
    (sentence,) = verdicts(_comparison(2.0), "random", {})
    assert sentence.startswith("transfer is better than random")


@pytest.mark.slow
def test_the_latex_table_has_the_rows_of_the_performance_table():
    comparison = _comparison(0.5)
    latex = latex_table(performance_table(comparison))
    assert latex.count("\\\\") == 1 + len(comparison)
    shown = performance_table(comparison).loc["transfer"].iloc[0]
    assert shown.replace("–", "--") in latex
    assert shown.startswith(f"{comparison.loc['transfer', 'accuracy']:.3f} (")
