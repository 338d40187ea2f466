import subprocess
import sys

import pytest

from files.lock import sole_holder

HOLD = """
import sys, time
from pathlib import Path
from files.lock import sole_holder
with sole_holder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_is_held_by_one_process_and_let_go_by_one_that_is_killed(tmp_path):
    path = tmp_path / "a.lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"process {other.pid} on "), sole_holder(path):
            pass
        other.kill()
    with sole_holder(path):
        assert path.is_file()
    assert not path.exists()


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("files.lock.fcntl.flock", unsupported)
    with sole_holder(tmp_path / "a"), sole_holder(tmp_path / "a"):
        pass
    assert not (tmp_path / "a").exists()
