"""Predictions tables drawn from known distributions."""

import numpy as np
import pandas as pd

from evaluation.predictions import with_decision
from evaluation.summary import RunTables

CLASSES = ("healthy", "unhealthy", "other")


def draw_predictions(num_scans=60, num_classes=2, num_repeats=1, signal=1.0, seed=0, per_patient=2):
    """Draw logits with standard normal noise; the true class's logit is higher by `signal`."""
    generator = np.random.default_rng(seed)
    true = np.arange(num_scans) % num_classes
    repeats = []
    for repeat in range(num_repeats):
        logits = generator.normal(size=(num_scans, num_classes))
        logits[np.arange(num_scans), true] += signal
        repeats.append(as_predictions(logits, true, repeat=repeat, per_patient=per_patient))
    return pd.concat(repeats, ignore_index=True)


def as_predictions(logits, true, repeat=0, per_patient=1):
    """Make a predictions table from logits (N, K) and class indices (N,)."""
    names = CLASSES[: logits.shape[1]]
    table = pd.DataFrame(
        {
            "patient_id": [f"p{n // per_patient:04d}" for n in range(len(true))],
            "image": [f"{n}.nii" for n in range(len(true))],
            "repeat": repeat,
            "fold": np.arange(len(true)) % 5,
            "label": [names[k] for k in true],
        }
    )
    outputs = 1 / (1 + np.exp(-logits))  # a sigmoid for each class
    for k, name in enumerate(names):
        table[f"prob_{name}"] = outputs[:, k] / outputs.sum(axis=1)
    return with_decision(table)


def as_run(table, validation=None, curves=None):
    """Put a predictions table into a run: everyone else trains, one of them validates if any do."""
    others = ["train"] if validation is None else ["val", "train"]
    splits = [
        (
            repeat,
            fold,
            patient,
            "test" if patient in set(rows["patient_id"]) else others[n % len(others)],
        )
        for (repeat, fold), rows in table.groupby(["repeat", "fold"])
        for n, patient in enumerate(sorted(set(table["patient_id"])))
    ]
    cohort = table[["patient_id", "image", "label"]].drop_duplicates()
    return RunTables(
        predictions=table,
        validation=validation,
        splits=pd.DataFrame(splits, columns=["repeat", "fold", "patient_id", "part"]),
        cohort=cohort.assign(file_hash="", site=""),
        curves=curves,
    )
