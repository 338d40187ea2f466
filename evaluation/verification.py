"""Do the tables of a run agree with each other, and its figures with the tables?"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from evaluation.predictions import PROB, class_names_of, with_decision
from evaluation.regression import is_regression
from evaluation.summary import RunTables

TOLERANCE = 1e-9
DECISION_TOLERANCE = 1e-6  # nine digits are written
KEY = ["repeat", "fold", "patient_id", "image"]


def table_faults(run: RunTables) -> list[str]:
    """List what is inconsistent between predictions, splits and cohort."""
    predictions = run.predictions
    scans = list(zip(predictions["patient_id"], predictions["image"], strict=True))
    truth = "target" if is_regression(predictions) else "label"
    labels = run.cohort.set_index(["patient_id", "image"])[truth].to_dict()
    known = np.array([scan in labels for scan in scans])
    label = np.array([labels.get(scan) for scan in scans], dtype=object)
    tested = run.splits[run.splits["part"] == "test"]
    expected = tested.merge(run.cohort[["patient_id", "image"]], on="patient_id")[KEY]
    found = predictions[KEY].merge(expected, how="outer", indicator="where")
    rows = (_number_faults if truth == "target" else _class_faults)(predictions)
    if truth == "target":
        label = label.astype(float)
    rows |= {
        "it is not in cohort.csv": ~known,
        f"its {truth} is another in cohort.csv": known & (predictions[truth] != label),
        "it is predicted twice": predictions.duplicated(KEY),
    }
    faults = {words: predictions[wrong] for words, wrong in rows.items()}
    faults["it is predicted, but not in this test part of splits.csv"] = found[
        found["where"] == "left_only"
    ]
    faults["it is in this test part of splits.csv, but not predicted"] = found[
        found["where"] == "right_only"
    ]
    return [
        f"predictions.csv: repeat {row['repeat']}, fold {row['fold']}, "
        f"patient {row['patient_id']!r}, image {row['image']!r}: {words}"
        for words, table in faults.items()
        for row in table.to_dict("records")
    ]


def _class_faults(predictions: pd.DataFrame) -> dict[str, Any]:
    """Which rows have probabilities, a class or a confidence that do not agree, by words."""
    decided = with_decision(predictions)
    outputs = predictions[[PROB + name for name in class_names_of(predictions)]]
    lead = (predictions["confidence"] - decided["confidence"]).abs()
    total = outputs.where(outputs >= 0).sum(axis=1, skipna=False)
    return {
        "its probabilities do not add up to 1": ~np.isclose(total, 1, atol=DECISION_TOLERANCE),
        "predicted is not the class of its highest probability": predictions["predicted"]
        != decided["predicted"],
        "confidence is not its highest probability minus the second": lead > DECISION_TOLERANCE,
    }


def _number_faults(predictions: pd.DataFrame) -> dict[str, Any]:
    """Which rows predict no number, by words."""
    return {"predicted is no number": ~np.isfinite(predictions["predicted"])}


def figure_faults(stated: Any, computed: Any, name: str = "") -> Iterator[str]:
    """Name the figures of metrics.json that are not what the tables give.

    Args:
        stated: The content of metrics.json.
        computed: The same, computed again; NaN as None.
        name: Place of both in metrics.json.
    """
    if isinstance(stated, Mapping) and isinstance(computed, Mapping):
        for key in sorted(stated.keys() | computed.keys()):
            place = f"{name}.{key}" if name else key
            yield from figure_faults(stated.get(key), computed.get(key), place)
    elif isinstance(stated, list) and isinstance(computed, list) and len(stated) == len(computed):
        for place, (was, now) in enumerate(zip(stated, computed, strict=True)):
            yield from figure_faults(was, now, f"{name}[{place}]")
    elif isinstance(stated, int | float) and isinstance(computed, int | float):
        if abs(stated - computed) > TOLERANCE:
            yield f"metrics.json: {name} is {stated}, the tables give {computed}"
    elif stated != computed:
        yield f"metrics.json: {name} is {stated}, the tables give {computed}"
