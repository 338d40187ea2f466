import errno
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from datamodules.batches.workers import in_order
from datamodules.cache.row_cache import cached_rows
from datamodules.cohort import Cohort
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Columns
from files.hashes import digest


@pytest.fixture
def build(tmp_path):
    """Return a function that opens rows and lists which ones had to be built."""

    def build(keys, fail_at=None):
        built = []

        def build_row(position):
            if position == fail_at:
                raise RuntimeError("interrupted")
            built.append(keys[position])
            return np.full((2, 2), float(keys[position])), {"key": keys[position]}

        rows, facts = cached_rows(tmp_path / "rows", keys, (2, 2), build_row, what="rows")
        assert [fact["key"] for fact in facts] == keys
        assert rows[:, 0, 0].tolist() == [float(key) for key in keys]
        return built

    return build


def test_rows_are_built_once(build):
    assert build(["1", "2", "3"]) == ["1", "2", "3"]
    assert build(["1", "2", "3"]) == []


@pytest.fixture
def few_files():
    """Leave the process a few files to open."""
    num_open = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 12, hard))
    yield num_open
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_many_files_in_a_folder_take_no_more_open_files(build, few_files):
    for number in range(40):
        assert build([str(number)]) == [str(number)]
    assert len(os.listdir("/proc/self/fd")) == few_files


def test_too_many_open_files_are_no_damage(build, monkeypatch, tmp_path):
    build(["1"])

    def load(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files", "rows.npy")

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(OSError, match="Too many open files") as error:
        build(["1"])
    assert error.value.errno == errno.EMFILE


def test_only_changed_and_new_rows_are_built(build):
    build(["1", "2", "3"])
    assert build(["3", "9", "1", "4"]) == ["9", "4"]


def test_an_interrupted_build_is_continued_by_any_list_with_the_same_rows(build, tmp_path):
    with pytest.raises(RuntimeError, match="interrupted"):
        build(["1", "2", "3", "4"], fail_at=2)
    assert build(["2", "5", "1"]) == ["5"]
    assert build(["1", "2", "3", "4"]) == ["3", "4"]


def test_a_killed_build_is_continued_and_leaves_nothing_behind(build, tmp_path):
    build(["9"])
    folder = tmp_path / "rows"
    script = f"""
import os, signal
import numpy as np
from pathlib import Path
from datamodules.cache import row_cache
row_cache.SECONDS_BETWEEN_NOTES = 0
def build_row(position):
    if position == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((2, 2), position + 1.0), {{"key": str(position + 1)}}
row_cache.cached_rows(Path({str(folder)!r}), list("12345"), (2, 2), build_row, what="rows")
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    (notes,) = folder.glob("*.rows")
    with notes.open("a") as file:
        file.write('["4", {"ke')  # corrupt
    assert build(list("12345")) == ["4", "5"]
    assert {path.suffix for path in folder.iterdir()} == {".npy", ".json"}


def test_the_rows_of_another_running_build_stay(build, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    name = digest(["1"], (2, 2))
    theirs = [
        folder / f"{name}.5.{socket.gethostname()}.{os.getppid()}{end}" for end in (".tmp", ".rows")
    ]
    theirs.append(folder / f"{name}.5.elsewhere.1.rows")
    for path in theirs:
        path.touch()
    build(["1"])
    assert all(path.exists() for path in theirs)
    for path in theirs:
        os.utime(path, (0, 0))
    build(["1", "2"])
    assert not any(path.exists() for path in theirs)


def _square(position):
    return position**2


@pytest.mark.slow
def test_worker_processes_keep_the_order(monkeypatch):
    monkeypatch.setattr("datamodules.batches.workers.SECONDS_WORTH_WORKERS", -1)
    monkeypatch.setattr(
        "datamodules.batches.workers.time.monotonic", itertools.count(0, 2).__next__
    )
    assert list(in_order(_square, range(2, 12), 2)) == [n**2 for n in range(2, 12)]


def test_an_array_without_an_index_does_not_count(build, tmp_path):
    build(["1", "2"])
    (index,) = (tmp_path / "rows").glob("*.json")
    index.unlink()
    assert build(["1", "2"]) == ["1", "2"]


def test_rows_cannot_be_written_by_mistake(tmp_path):
    rows, _ = cached_rows(tmp_path, ["1"], (1,), lambda _: (np.zeros(1), {}), what="rows")
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 1


def test_a_changed_scan_or_parameter_rebuilds_just_what_it_must(
    write_cohort, write_scan, tmp_path, monkeypatch
):
    table = str(write_cohort(4))
    prepared = []

    def spy(paths, *settings):
        prepared.append(paths[0].name)
        return original(paths, *settings)

    from datamodules import volumes

    original = volumes.preprocess
    monkeypatch.setattr(volumes, "preprocess", spy)

    def open_cohort(shape):
        settings = Preprocessing(spatial_shape=shape)
        cohort = Cohort(table, Columns(), settings, str(tmp_path / "cache"))
        prepared.clear()
        return cohort.volumes.data.copy(), list(prepared)

    before, built = open_cohort((8, 8, 8))
    assert len(built) == 4
    assert open_cohort((8, 8, 8))[1] == []
    write_scan("cohort/p02_0.nii.gz", seed=99)
    after, built = open_cohort((8, 8, 8))
    assert built == ["p02_0.nii.gz"]
    changed = [row for row in range(4) if not np.array_equal(before[row], after[row])]
    assert changed == [2]
    assert len(open_cohort((9, 8, 8))[1]) == 4
