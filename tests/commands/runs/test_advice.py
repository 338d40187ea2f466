"""What a message advises can be done in the verb that prints it."""

import pytest

from commands.runs.advice import advice_for


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (
            "it has ['who', 'image']. Rename it or set --data.columns.patient_id.",
            "it has ['who', 'image']. Rename it.",
        ),
        (
            "no scan has a label. Fill the label column, or name it with --data.columns.label.",
            "no scan has a label. Fill the label column.",
        ),
        (
            "Fill in or empty these cells, or name 'n.a.' in --data.classes if it is a class.",
            "Fill in or empty these cells.",
        ),
        (
            "Fix the table, or set --data.labels_per=scan if a patient's scans may differ.\nerror",
            "Fix the table.\nerror",
        ),
        ("Fix the table or --data.classes.", "Fix the table."),
        ("Rename it, or set --data.columns.label=Lable.", "Rename it."),
        (
            "Leave it out, or set --data.preprocessing.fill_nan=true, which gives NaN more.",
            "Leave it out.",
        ),
        ("Drop one of them, or give both the same patient_id.", None),
    ],
)
def test_a_verb_of_a_finished_run_advises_no_settings_of_the_data(message, left):
    assert advice_for("finetune", message) == message
    assert advice_for("evaluate", message) == (left or message)
