import json
import os
import subprocess
import sys
import threading
import time

import pytest

from commands.sweeps import worker_claim
from commands.sweeps.worker_claim import (
    CLAIM_NAME,
    Claim,
    ClaimLostError,
    StopIfClaimLost,
    claimed,
    is_fresh,
)


def _write(folder, **worker):
    path = folder / CLAIM_NAME
    path.write_text(json.dumps(worker))
    return path


def test_one_of_many_that_come_at_once_gets_the_folder(tmp_path):
    claims = [Claim(tmp_path) for _ in range(16)]
    taken = []
    start = threading.Barrier(len(claims))

    def come(claim):
        start.wait()
        taken.append(claim.take())

    threads = [threading.Thread(target=come, args=(claim,)) for claim in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1


def test_a_claim_ends_with_its_block_also_after_an_error(tmp_path):
    with claimed(tmp_path) as mine, claimed(tmp_path) as other:
        assert mine is not None
        assert other is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), claimed(tmp_path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_the_claim_of_a_process_that_died_here_is_taken_over_at_once(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    _write(tmp_path, host=worker_claim.platform.node(), pid=done.pid)
    with claimed(tmp_path) as mine:
        assert mine is not None


def test_a_claim_of_another_machine_counts_until_it_is_old(tmp_path):
    path = _write(tmp_path, host="elsewhere", pid=os.getpid())
    assert is_fresh(path)
    past = time.time() - worker_claim.FRESH_S - 1
    os.utime(path, (past, past))
    assert not is_fresh(path)
    path.write_text("")  # a claim that is being written
    assert is_fresh(path)


def test_a_worker_shows_that_it_lives_until_another_has_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_claim, "BEAT_S", 0.02)
    with claimed(tmp_path) as mine:
        os.utime(mine.path, (1, 1))
        for _ in range(200):
            time.sleep(0.02)
            if mine.path.stat().st_mtime > 1:
                break
        assert mine.path.stat().st_mtime > 1
        watch = StopIfClaimLost(mine)
        watch.on_validation_start(None, None)
        _write(tmp_path, host="elsewhere", pid=1)
        with pytest.raises(ClaimLostError):
            watch.on_validation_start(None, None)
    assert (tmp_path / CLAIM_NAME).is_file(), "the other's claim stays"
