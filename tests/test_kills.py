"""Processes killed at random instants, on another file system than the temporary one.

MCTL_KILLS=25 python -m pytest tests/test_kills.py -n 0 -s kills each of the verbs 25 times.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from outcomes import assert_same_outcome

from lightning_modules.transfer import read_checkpoint

NUM_KILLS = int(os.environ.get("MCTL_KILLS", "2"))
NUM_CUTS = int(os.environ.get("MCTL_CUTS", "5"))
OFTEN = """
trainer:
  callbacks:
    - class_path: callbacks.best_checkpoint.BestValidationCheckpoint
      init_args: {monitor: val/loss, mode: min, tie_breaker: null, save_every_minutes: 0}
    - class_path: callbacks.confidence_ranking.ConfidenceRanking
    - class_path: callbacks.distributed.DistributedRun
"""
SHARED = ["--wandb=disabled", "--trainer.accelerator=cpu", "--trainer.max_epochs=6"]
SHARED += ["--data.preprocessing.spatial_shape=[12,12,12]", "--model.filters=4", "--model.depth=2"]
FINETUNE = ["finetune", "-cconfigs/finetune.yaml", *SHARED, "--data.batch_size=2"]
FINETUNE += ["--data.augmentation.num_versions=2", "--data.splits.num_repeats=1"]
FINETUNE += ["--data.splits.num_folds=2", "--model.dropout=0.3", "--model.mixup=0.4"]
FINETUNE += ["--model.finetuning.schedule=cosine"]
PRETRAIN = ["pretrain", "-cconfigs/pretrain.yaml", *SHARED, "--data.patch_shape=[6,6,4]"]
PRETRAIN += ["--data.patches_per_volume=200", "--data.batch_size=16", "--model.noise_std=0.1"]


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another file system than that of temporary files, where there is one."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=shm, prefix="mctl-"))
    yield folder
    shutil.rmtree(folder)


def _start(arguments, log):
    with log.open("a") as stream:
        return subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _assert_none_is_torn(run):
    for path in run.rglob("*.ckpt"):
        read_checkpoint(path)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [FINETUNE, PRETRAIN], ids=["finetune", "pretrain"])
def test_a_run_that_is_killed_at_any_instant_ends_like_one_that_was_not(
    write_cohort, tmp_path, other_disk, arguments
):
    table = write_cohort(8)
    often = tmp_path / "often.yaml"
    often.write_text(OFTEN)
    shared = [*arguments, f"-c{often}", f"--data.table={table}"]
    log = tmp_path / "log.txt"
    generator = random.Random(os.environ.get("MCTL_SEED", "1"))

    def command(number):
        cache = tmp_path / f"cache{number}"  # so that a kill may hit its making as well
        folders = [f"--run={other_disk / str(number)}", f"--data.cache_dir={cache}"]
        return [*shared, *folders, f"--data.num_workers={2 * (number % 2)}"]

    began = time.monotonic()
    assert _start(command(0), log).wait() == 0, log.read_text()[-3000:]
    duration = time.monotonic() - began
    num_kills, num_finished, finished = 0, 0, False
    while num_kills < NUM_KILLS or not finished:
        run = other_disk / str(num_finished + 1)
        process = _start(command(num_finished + 1), log)
        try:
            wait = generator.uniform(0, duration) if num_kills < NUM_KILLS else None
            assert process.wait(wait) == 0, log.read_text()[-3000:]
            finished = True
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            num_kills, finished = num_kills + 1, False
            _assert_none_is_torn(run)
        if finished:
            assert_same_outcome(other_disk / "0", run)
            assert not list(run.rglob("*.tmp"))
            num_finished += 1
    resumed = log.read_text().count("continues from")
    print(f"{num_kills} kills in {num_finished} runs, {resumed} cells continued, none torn")
