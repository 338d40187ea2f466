"""The shipped batch scripts on a real SLURM of two nodes, submitted as a user does."""

import re
import sys
import time

import pandas as pd
import pytest
import torch
from slurm_cluster import logs, running_cluster, why_not

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"No SLURM here: {why_not()}"),
]
FINETUNE = [
    "--model.nodes=8",
    "--data.batch_size=4",
    "--data.augmentation.num_versions=2",
    "--data.splits.num_repeats=1",
    "--data.splits.num_folds=2",
    "--data.splits.val_fraction=0.2",
]
PRETRAIN = [
    "--data.patch_shape=[6,6,4]",
    "--data.patches_per_volume=400",
    "--data.batch_size=8",
    "--data.val_patches_per_volume=10",
    "--model.noise_std=0.1",
]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A cluster of this worker process alone."""
    with running_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def submit(cluster, tmp_path):
    """Return a function that gives a make target and answers the numbers of its jobs."""

    def make(target, table, run, *settings, slurm="", epochs=2, **variables):
        tiny = [
            f"--data.cache_dir='{tmp_path / 'cache'}'",
            f"--trainer.max_epochs={epochs}",
            "--trainer.accelerator=cpu",
            "--model.filters=4",
            "--model.depth=2",
            "--data.preprocessing.spatial_shape=[12,12,12]",
        ]
        given = {
            "PY": sys.executable,
            "DATA": table,
            "RUN": tmp_path / run,
            "ARGS": " ".join([*tiny, *settings]),
            "SLURM_ARGS": f"--cpus-per-task=1 --output='{tmp_path}/%x-%j.out' {slurm}",
        }
        words = [f"{name}={value}" for name, value in (given | variables).items()]
        said = cluster.run("make", "-o", ".venv/.ready", target, *words, timeout_s=500)
        return re.findall(r"^Submitted .*job (\d+)", said, flags=re.MULTILINE)

    return make


def test_an_array_of_folds_is_gathered_to_the_tables_of_a_sequential_run(
    cluster, submit, write_cohort, run_verb, tmp_path
):
    table = write_cohort(12, name="a cohort")
    array, gather = submit("slurm-finetune", table, "the array", *FINETUNE, TASKS=2)
    assert cluster.wait_for(gather) == "COMPLETED", logs(tmp_path)
    assert [cluster.fact(f"{array}_{task}", "JobState") for task in range(2)] == ["COMPLETED"] * 2
    assert run_verb("finetune", table, "sequential", *FINETUNE) == 0
    for name in ("predictions.csv", "validation.csv", "ranking.csv", "splits.csv"):
        whole = (tmp_path / "sequential" / name).read_bytes()
        assert (tmp_path / "the array" / name).read_bytes() == whole
    assert (tmp_path / "the array/report.html").is_file()


def test_a_task_that_fails_is_reported_as_failed_and_so_is_the_gathering(
    cluster, submit, write_cohort, tmp_path
):
    in_the_way = tmp_path / "run/repeat0_fold1"
    in_the_way.parent.mkdir()
    in_the_way.write_text("a file where the fold's folder should be")
    table = write_cohort(12)
    array, gather = submit("slurm-finetune", table, "run", *FINETUNE, TASKS=2, epochs=1)
    assert cluster.wait_for(gather) == "FAILED"
    states = [cluster.fact(f"{array}_{task}", "JobState") for task in range(2)]
    assert states == ["COMPLETED", "FAILED"]
    assert cluster.fact(gather, "ExitCode") == "2:0"
    assert "1 of 2 folds" in (tmp_path / f"gather-{gather}.out").read_text()
    assert not (tmp_path / "run/predictions.csv").exists()


def test_two_nodes_share_every_batch_of_one_pretraining(cluster, submit, write_cohort, tmp_path):
    table = write_cohort(6, labelled=False)
    (job,) = submit("slurm-pretrain", table, "nodes", *PRETRAIN)
    assert cluster.wait_for(job) == "COMPLETED", logs(tmp_path)
    assert (cluster.fact(job, "NodeList"), cluster.fact(job, "NumTasks")) == ("n[1-2]", "2")
    assert "effective batch size 16" in logs(tmp_path)
    assert (tmp_path / "nodes/finished.json").is_file()


def test_a_task_whose_time_is_nearly_up_is_requeued_and_goes_on_alone(
    cluster, submit, write_cohort, run_verb, tmp_path
):
    table = write_cohort(12)
    long = {"epochs": 60}
    array, gather = submit("slurm-finetune", table, "run", *FINETUNE, TASKS=2, **long)
    log = tmp_path / "run/repeat0_fold1/logs/version_0/metrics.csv"
    _wait_for_epoch(log, 3)
    # SLURM sends the same to the same steps when --signal asks for it
    cluster.run("scancel", "--signal=USR1", f"{array}_1")
    assert cluster.wait_for(gather) == "COMPLETED", logs(tmp_path)
    restarts = [cluster.fact(f"{array}_{task}", "Restarts") for task in range(2)]
    assert restarts == ["0", "1"]
    assert _first_epoch(tmp_path / "run/repeat0_fold1/logs/version_1/metrics.csv") >= 3
    assert run_verb("finetune", table, "whole", *FINETUNE, **long) == 0
    predictions = (tmp_path / "run/predictions.csv").read_bytes()
    assert predictions == (tmp_path / "whole/predictions.csv").read_bytes()


def test_a_preempted_job_on_two_nodes_ends_like_two_processes_of_one_machine_that_were_not(
    cluster, submit, write_cohort, tmp_path
):
    table = write_cohort(6, labelled=False)
    long = {"epochs": 25}
    (job,) = submit("slurm-pretrain", table, "run", *PRETRAIN, **long)
    _wait_for_epoch(tmp_path / "run/logs/version_0/metrics.csv", 3)
    urgent = ["--partition=high", "--nodes=2", "--exclusive", "--wrap=true", "--output=/dev/null"]
    cluster.run("sbatch", "--wait", *urgent, timeout_s=120)
    assert cluster.wait_for(job) == "COMPLETED", logs(tmp_path)
    assert cluster.fact(job, "Restarts") == "1"
    assert _first_epoch(tmp_path / "run/logs/version_1/metrics.csv") >= 3
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    submit("pretrain", table, "whole", *PRETRAIN, *ddp, **long)
    run, whole = (_weights(tmp_path / name) for name in ("run", "whole"))
    assert all(torch.equal(run[name], whole[name]) for name in whole)


def test_a_first_node_without_an_address_is_an_error_and_no_endless_wait(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.delitem(cluster.env, "MASTER_ADDR")
    script = ["--output", tmp_path / "job.out", "configs/cluster/pretrain.sbatch", "true"]
    job = cluster.run("sbatch", "--parsable", *script).strip()
    assert cluster.wait_for(job) == "FAILED"
    assert "n1 has no address: set MASTER_ADDR" in (tmp_path / "job.out").read_text()


def _weights(run):
    return torch.load(run / "best.ckpt", weights_only=True)["state_dict"]


def _first_epoch(log):
    return pd.read_csv(log)["epoch"].min()


def _wait_for_epoch(log, epoch):
    """Wait until the training has logged this epoch, and is not near its end."""
    end = time.monotonic() + 500
    while not (log.is_file() and f"\n{epoch}," in log.read_text()):
        assert time.monotonic() < end, f"{log} never came to epoch {epoch}"
        time.sleep(0.05)
