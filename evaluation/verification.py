"""Do the tables of a run agree with each other, and its figures with the tables?"""

from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.predictions import with_decision
from evaluation.summary import RunTables

TOLERANCE = 1e-9
DECISION_TOLERANCE = 1e-6  # nine digits are written
KEY = ["repeat", "fold", "patient_id", "image"]


def table_faults(run: RunTables) -> list[str]:
    """List what is inconsistent between predictions, splits and cohort."""
    predictions = run.predictions
    faults = []
    decided = with_decision(predictions)
    for name in ("predicted", "confidence"):
        if name == "predicted":
            differs = predictions[name] != decided[name]
        else:
            differs = (predictions[name] - decided[name]).abs() > DECISION_TOLERANCE
        stated = predictions[differs].to_dict("records")
        faults += [
            f"predictions.csv: {_scan(row)}: {name} is {row[name]}, its outputs say {right}"
            for row, right in zip(stated, decided.loc[differs, name], strict=True)
        ]
    labels = run.cohort.set_index(["patient_id", "image"])["label"].to_dict()
    for row in predictions.to_dict("records"):
        label = labels.get((row["patient_id"], row["image"]))
        if label is None:
            faults.append(f"predictions.csv: {_scan(row)} is not in cohort.csv")
        elif label != row["label"]:
            faults.append(f"predictions.csv: {_scan(row)}: label {row['label']}, cohort {label}")
    tested = run.splits[run.splits["part"] == "test"]
    scans = run.cohort[["patient_id", "image"]]
    expected = tested.merge(scans, on="patient_id")[KEY]
    found = predictions[KEY].merge(expected, how="outer", indicator=True)
    for row in found[found["_merge"] != "both"].to_dict("records"):
        what = (
            "predicted, but not in this test part"
            if row["_merge"] == "left_only"
            else "not predicted"
        )
        faults.append(f"splits.csv: {_scan(row)}: {what}")
    faults += [
        f"predictions.csv: {_scan(row)} is there twice"
        for row in predictions[predictions.duplicated(KEY)].to_dict("records")
    ]
    return faults


def figure_faults(stated: Mapping[str, Any], computed: Mapping[str, Any]) -> list[str]:
    """List the figures that are not what the tables give.

    Args:
        stated: The content of metrics.json.
        computed: The same, computed anew; NaN as None.
    """
    return [
        f"metrics.json: {name} is {was}, the tables give {now}"
        for name, was, now in _differences(stated, computed, "")
    ]


def impossible_triples(metrics: Mapping[str, Any]) -> list[str]:
    """List figures that cannot be true together: accuracy lies between sensitivity and specificity.

    Args:
        metrics: The content of a metrics.json; with more than two classes nothing is checked.
    """
    if not metrics.get("positive_class"):
        return []
    rows = {"mean": metrics["mean"]}
    rows |= {f"repeat {n}": row for n, row in enumerate(metrics["repeats"])}
    faults = []
    for name, row in rows.items():
        accuracy, *parts = (row[key] for key in ("accuracy", "sensitivity", "specificity"))
        if None in parts or accuracy is None:
            continue
        if not min(parts) - TOLERANCE <= accuracy <= max(parts) + TOLERANCE:
            faults.append(
                f"metrics.json, {name}: accuracy {accuracy:.3f} does not lie between sensitivity "
                f"{parts[0]:.3f} and specificity {parts[1]:.3f}: no table of cases gives this"
            )
    return faults


def _differences(stated: Any, computed: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(stated, Mapping) and isinstance(computed, Mapping):
        for key in sorted(stated.keys() | computed.keys()):
            place = f"{name}.{key}" if name else key
            yield from _differences(stated.get(key), computed.get(key), place)
    elif isinstance(stated, list) and isinstance(computed, list) and len(stated) == len(computed):
        for place, (was, now) in enumerate(zip(stated, computed, strict=True)):
            yield from _differences(was, now, f"{name}[{place}]")
    elif isinstance(stated, int | float) and isinstance(computed, int | float):
        if abs(stated - computed) > TOLERANCE:
            yield name, stated, computed
    elif stated != computed:
        yield name, stated, computed


def _scan(row: Mapping[Any, Any]) -> str:
    return (
        f"repeat {row['repeat']}, fold {row['fold']}, patient {row['patient_id']!r}, "
        f"image {row['image']!r}"
    )
