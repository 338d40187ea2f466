"""How often a run opens the files of its scans."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from files.hashes import known_hashes

_counters = []  # audit hooks stay for the rest of the process


def _count(event, arguments):
    if event == "open" and _counters and str(arguments[0]).endswith(".nii.gz"):
        _counters[-1][Path(str(arguments[0])).name] += 1


sys.addaudithook(_count)


@pytest.fixture
def opened():
    """Count by name how often scans are opened."""
    _counters.append(Counter())
    yield _counters[-1]
    _counters.pop()


@pytest.mark.slow
def test_a_run_opens_a_scan_once_for_the_check_and_once_for_the_cache(
    write_cohort, run_verb, opened
):
    table = write_cohort(6)
    opened.clear()
    settings = ["--data.splits.num_folds=2", "--data.augmentation.mode=none"]
    settings += ["--data.preprocessing.fit=resize"]  # the voxel size of a checkpoint needs headers
    known_hashes.clear()
    assert run_verb("finetune", table, "run", *settings, epochs=1) == 0
    assert len(opened) == 6
    assert set(opened.values()) == {2}
    opened.clear()
    known_hashes.clear()  # as a new process has it
    assert run_verb("finetune", table, "other", *settings, "--only=prepare") == 0
    assert len(opened) == 6
    assert set(opened.values()) == {1}
