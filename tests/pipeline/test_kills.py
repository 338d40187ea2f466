"""Processes killed at random instants, on another file system than the temporary one.

MCTL_KILLS=25 python -m pytest tests/pipeline/test_kills.py -n 0 -s kills each of the three models
25 times.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from outcomes import assert_same_outcome

import main
from lightning_modules.transfer import read_checkpoint

NUM_KILLS = int(os.environ.get("MCTL_KILLS", "1"))
OFTEN = """
trainer:
  callbacks:
    - class_path: callbacks.best_checkpoint.BestValidationCheckpoint
      init_args: {monitor: val/loss, mode: min, tie_breaker: null, save_every_minutes: 0}
    - class_path: callbacks.confidence_ranking.ConfidenceRanking
    - class_path: callbacks.distributed.DistributedRun
"""
EPOCHS = 6 if NUM_KILLS < 5 else 20  # so that most of the time is training
SHARED = ["--wandb=disabled", "--trainer.accelerator=cpu", f"--trainer.max_epochs={EPOCHS}"]
SHARED += ["--data.preprocessing.spatial_shape=[12,12,12]"]
TINY = ["--model.filters=4", "--model.depth=2"]
FINETUNE = ["finetune", "-cconfigs/finetune.yaml", *SHARED, "--data.batch_size=2"]
FINETUNE += ["--data.augmentation.num_versions=2", "--data.splits.num_repeats=1"]
FINETUNE += ["--data.splits.num_folds=2", "--data.splits.val_fraction=0.2"]
REGULARISED = ["--model.dropout=0.3", "--model.mixup=0.4", "--model.finetuning.schedule=cosine"]
CLASSIFIER = [*FINETUNE, *TINY, *REGULARISED]
BASELINE = [*FINETUNE, "-cconfigs/baseline.yaml", *REGULARISED, "--model.weights=none"]
BASELINE += ["--model.backbone=mobilenetv3_small_050", "--model.image_size=32"]
BASELINE += ["--model.num_slices=2", f"--trainer.max_epochs={EPOCHS}"]
PRETRAIN = ["pretrain", "-cconfigs/pretrain.yaml", *SHARED, *TINY, "--data.patch_shape=[6,6,4]"]
PRETRAIN += [f"--data.patches_per_volume={40 * EPOCHS}", "--data.batch_size=16"]
PRETRAIN += ["--model.noise_std=0.1"]


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
    """Begin a verb in a process of its own; the imports, which write nothing, are done already."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=(arguments, log))
    process.start()
    return process


def _work(arguments, log):
    os.setsid()
    with log.open("a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1) for number in (1, 2))  # noqa: SIM115
    os._exit(main.main(arguments))


def _ended(process, log, wait=None):
    """Wait for the process, and whether it has ended, well."""
    process.join(wait)
    assert process.exitcode in (None, 0), log.read_text()[-3000:]
    return process.exitcode == 0


def _assert_all_are_whole(run):
    for path in run.rglob("*.ckpt"):
        read_checkpoint(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [CLASSIFIER, BASELINE, PRETRAIN],
    ids=["classifier", "baseline", "autoencoder"],
)
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
    assert _ended(_start(command(0), log), log)
    duration = time.monotonic() - began
    num_kills, num_finished, finished = 0, 0, False
    while num_kills < NUM_KILLS or not finished:
        run = other_disk / str(num_finished + 1)
        process = _start(command(num_finished + 1), log)
        wait = generator.uniform(0, duration) if num_kills < NUM_KILLS else None
        finished = _ended(process, log, wait)
        if not finished:
            with suppress(ProcessLookupError):  # it has no group yet
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
            num_kills += 1
            _assert_all_are_whole(run)
        if finished:
            assert_same_outcome(other_disk / "0", run, killed=True)
            assert not list(run.rglob("*.tmp"))
            num_finished += 1
    resumed = log.read_text().count("continues from")
    print(f"{num_kills} kills in {num_finished} runs, {resumed} fold runs continued, none corrupt")
