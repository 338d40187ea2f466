"""Labels that were swapped on purpose, found by the main job on the demo cohort."""

import numpy as np
import pandas as pd
import pytest

import main
from datamodules.importing.synthetic import write_synthetic_cohort


@pytest.mark.slow
def test_five_swapped_labels_of_the_demo_cohort_come_first_among_the_suspects(tmp_path):
    table = write_synthetic_cohort(tmp_path, "target", 48, labelled=True, seed=0)
    cohort = pd.read_csv(table, dtype=str)
    swapped = np.random.default_rng(0).choice(len(cohort), size=5, replace=False)
    other = {"healthy": "unhealthy", "unhealthy": "healthy"}
    cohort.loc[swapped, "label"] = cohort.loc[swapped, "label"].map(other)
    cohort.to_csv(table, index=False)
    flags = [
        "-cconfigs/finetune.yaml",
        "-cconfigs/demo/finetune.yaml",
        f"--data.table={table}",
        f"--run={tmp_path / 'run'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        "--data.splits.num_repeats=3",
        "--trainer.max_epochs=20",  # a third of the demo's, at twice its learning rate
        "--model.lr=2e-3",
        "--trainer.accelerator=cpu",
        "--data.splits.num_folds=3",
    ]
    assert main.main(["finetune", *flags]) == 0
    suspects = pd.read_csv(tmp_path / "run" / "suspected_labels.csv", dtype=str)
    names = set(cohort.loc[swapped, "patient_id"])
    assert len(names & set(suspects["patient_id"].head(5))) >= 3  # by chance one in two hundred
    marked = suspects.loc[suspects["suspected"] == "True", "patient_id"]
    assert len(names & set(marked)) >= 3
