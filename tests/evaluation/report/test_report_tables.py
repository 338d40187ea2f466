"""Table 1, the table of classes, and the sentences next to the figures."""

import numpy as np
import pandas as pd
import pytest
from predictions import as_predictions, as_run, draw_predictions
from sklearn import metrics as sk

from evaluation.predictions import as_cases, per_scan, ranking_table
from evaluation.report.markdown import write_report
from evaluation.report.tables import class_table, table_one
from evaluation.sanity import false_alarms
from evaluation.summary import summarise_run

RUN = {"name": "x", "init": None, "preprocessing": "Resized.", "command": "c", "num_fold_runs": 5}
RUN |= {"commit": None, "seed": 0, "data_hash": "h", "wall_time_s": 1.0, "device": "CPU"}


def _cohort():
    return pd.DataFrame(
        {
            "patient_id": ["a", "a", "b", "c", "d", "e"],
            "image": [f"{n}.nii" for n in range(6)],
            "label": ["ill", "ill", "ill", "well", "well", "well"],
            "file_hash": "",
            "site": "",
            "Age": ["40", "40", "50", "60", "", "80"],
            "sex": ["F", "F", "M", "F", "F", ""],
        }
    )


def _rows(table):
    return {row[0]: row[1:] for row in table["rows"]}


def test_table_one_counts_each_patient_once_by_class():
    table = table_one(_cohort(), ["ill", "well"])
    rows = _rows(table)
    assert table["columns"] == ["", "All", "ill", "well"]
    assert rows["Patients, n"] == ["5", "2", "3"]
    assert rows["Scans, n"] == ["6", "3", "3"]
    assert rows["Age, mean ± sd"] == ["57.5 ± 17.1", "45.0 ± 7.1", "70.0 ± 14.1"]
    assert rows["Age, median (min–max)"] == ["55 (40–80)", "45 (40–50)", "70 (60–80)"]
    assert rows["Age: not known"] == ["1 (20%)", "0 (0%)", "1 (33%)"]
    assert rows["sex: F"] == ["3 (60%)", "1 (50%)", "2 (67%)"]
    assert not [name for name in rows if name.startswith("site")], "nobody's site is known"


def test_there_is_no_table_one_without_something_to_describe():
    cohort = _cohort().drop(columns=["Age", "sex"])
    assert table_one(cohort, ["ill", "well"]) is None
    assert table_one(cohort.assign(Age="", sex=""), ["ill", "well"]) is None


def test_numbers_of_two_values_are_counted_like_words():
    rows = _rows(table_one(_cohort().assign(sex=["0", "0", "1", "0", "1", "1"]), ["ill", "well"]))
    assert rows["sex: 0"] == ["2 (40%)", "1 (50%)", "1 (33%)"]


def test_rare_sites_are_counted_together():
    cohort = pd.DataFrame(
        {
            "patient_id": [f"p{n}" for n in range(40)],
            "image": [f"{n}.nii" for n in range(40)],
            "label": ["ill", "well"] * 20,
            "site": [f"site {min(n, 14):02d}" for n in range(40)],
        }
    )
    rows = _rows(table_one(cohort, ["ill", "well"]))
    assert rows["site: 3 others"][0] == "3 (8%)"
    assert sum(int(row[0].split()[0]) for name, row in rows.items() if "site" in name) == 40


def _metrics(table, **more):
    return summarise_run(as_run(table)) | more


@pytest.mark.slow
def test_three_classes_are_measured_one_by_one():
    table = draw_predictions(num_classes=3, num_repeats=2)
    found = class_table(_metrics(table))
    assert found["columns"][:3] == ["Class", "Scans", "Sensitivity"]
    for name, *cells in found["rows"]:
        parts = [rows for _, rows in table.groupby("repeat")]
        recall = np.mean(
            [sk.recall_score(r["label"] == name, r["predicted"] == name) for r in parts]
        )
        area = np.mean([sk.roc_auc_score(r["label"] == name, r[f"prob_{name}"]) for r in parts])
        assert cells[0] == "20"
        assert float(cells[1]) == pytest.approx(recall, abs=6e-4)
        place = found["columns"].index("AUROC") - 1
        assert float(cells[place]) == pytest.approx(area, abs=6e-4)
    assert class_table(_metrics(draw_predictions())) is None


def _report(table, cohort=None):
    run = as_run(table)
    metrics = summarise_run(run)
    described = run.cohort if cohort is None else cohort
    return write_report(metrics, ranking_table(table), RUN, described, has_curves=False)


@pytest.mark.slow
def test_the_report_has_the_tables_where_there_is_something_to_say():
    two, three = _report(draw_predictions()), _report(draw_predictions(num_classes=3))
    assert "| Class |" in three
    assert "| Class |" not in two
    assert "those of the class `unhealthy`" in two
    assert "those of the class" not in three
    cohort = as_run(draw_predictions()).cohort
    assert "| Patients, n | 30 | 30 | 30 |" in _report(draw_predictions(), cohort.assign(sex="F"))
    assert "Patients, n" not in two


def test_the_report_shows_scans_in_one_line_next_to_patients():
    table = as_predictions(np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) // 3 % 2)
    table["patient_id"] = [f"p{n // 3}" for n in range(60)]
    scans, patients = per_scan(table), as_cases(table)
    right = (scans["label"] == scans["predicted"]).mean()
    words = _report(table)
    assert f"Scan by scan (60 scans): accuracy {right:.3f}" in words
    right = (patients["label"] == patients["predicted"]).mean()
    assert f"| Accuracy | {right:.3f} |" in words
    assert "most doubtful of 20 patients" in words
    assert "| num_scans |" in words


@pytest.mark.slow
def test_the_pooled_auroc_stands_next_to_that_inside_of_folds():
    table = draw_predictions(num_scans=80)
    areas = [
        sk.roc_auc_score(rows["label"] == "unhealthy", rows["prob_unhealthy"])
        for _, rows in table.groupby("fold")
    ]
    assert f"is {np.mean(areas):.3f} ± {np.std(areas, ddof=1):.3f}" in _report(table)
    one_each = table.iloc[:20].assign(fold=range(20))  # leave one out
    assert "no fold has cases of every class" in _report(one_each)


@pytest.mark.parametrize(
    ("number", "words"), [(1, "2.5%"), (3, "Of 3 checks, at least one"), (3, "up to 7%")]
)
def test_the_chance_of_a_false_alarm_is_stated(number, words):
    assert words in false_alarms(number)
