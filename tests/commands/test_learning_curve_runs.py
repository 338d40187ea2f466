"""The AUROC by the share of the training patients, end to end."""

import pandas as pd
import pytest

from datamodules.splits import folds_tested, read_splits


@pytest.mark.slow
def test_shares_of_the_patients_become_a_curve_with_and_without_init(
    write_cohort, run_verb, tmp_path, capsys
):
    source = write_cohort(6, name="source", labelled=False)
    source.write_text(source.read_text().replace("\np", "\nother"))
    assert run_verb("pretrain", source, "encoder", epochs=1) == 0
    table = write_cohort(16)
    given = [f"--init={tmp_path / 'encoder'}", "--fractions=[0.5,1.0]"]
    assert run_verb("learning_curve", table, "curve", *given, epochs=1) == 0
    folder = tmp_path / "curve"
    curve = pd.read_csv(folder / "learning_curve.csv")
    assert curve["share"].tolist() == [0.5, 1.0] * 2
    assert curve["arm"].unique().tolist() == ["random weights", "from encoder"]
    half, whole = (read_splits(folder / f"random-{share}") for share in ("0.5", "1"))
    assert folds_tested(half).equals(folds_tested(whole))
    num_trained = [(table["part"] == "train").sum() for table in (half, whole)]
    assert num_trained[0] == pytest.approx(num_trained[1] / 2, rel=0.15)
    assert (folder / "learning_curve.png").stat().st_size > 5000
    assert "too few shares" in capsys.readouterr().out
    assert "learning_curve.png" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--fractions=[0.0,1.0]", "above 0"),
        ("--fold=0", "trains every fold"),
        ("--fraction=1", "no setting"),
    ],
)
def test_what_is_no_curve_is_refused(given, words, write_cohort, run_verb, capsys):
    assert run_verb("learning_curve", write_cohort(6), "curve", given) == 2
    assert words in capsys.readouterr().err
