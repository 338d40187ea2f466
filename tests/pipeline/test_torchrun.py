"""Two torchrun agents, as on two machines; a worker dies and the run ends well.

MCTL_KILLS=10 MCTL_WORKERS=2 python -m pytest tests/pipeline/test_torchrun.py -n 0 -s kills ten
workers, with two on each machine.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcomes import assert_same_outcome

NUM_KILLS = int(os.environ.get("MCTL_KILLS", "1"))
NUM_WORKERS = int(os.environ.get("MCTL_WORKERS", "1"))
KILLS_A_RUN = 2
EPOCHS = 10
ARGUMENTS = [
    *("finetune", "-cconfigs/finetune.yaml", "--wandb=disabled", "--trainer.accelerator=cpu"),
    *(f"--trainer.max_epochs={EPOCHS}", "--model.filters=4", "--model.depth=2"),
    *("--model.dropout=0.3", "--data.preprocessing.spatial_shape=[12,12,12]"),
    *("--data.augmentation.num_versions=2", "--data.batch_size=2"),
    *("--data.splits.num_repeats=1", "--data.splits.num_folds=2"),
    # plain ddp rearranges its sums after the first step: four ranks would be rounded otherwise
    *(f"--trainer.devices={NUM_WORKERS}", "--trainer.num_nodes=2"),
    "--trainer.strategy=ddp_find_unused_parameters_true",
]


def _agents(arguments, log):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
    torchrun += [
        f"--nproc-per-node={NUM_WORKERS}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        "--max-restarts=9",
    ]
    environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with log.open("a") as stream:
        return [
            subprocess.Popen(
                [*torchrun, "--", "main.py", *arguments],  # else it takes --run for its own
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | environment | {"PYTHONUNBUFFERED": "1"},
            )
            for _ in range(2)
        ]


def _workers(agents):
    parents = {str(agent.pid) for agent in agents}
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if fields[1] in parents and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def _end(agents):
    try:
        return [agent.wait(400) for agent in agents]
    finally:
        for worker in _workers(agents):
            os.kill(worker, signal.SIGKILL)
        for agent in agents:
            agent.kill()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for workers in /proc")
def test_a_run_whose_worker_dies_is_restarted_and_ends_like_one_in_which_none_did(
    write_cohort, tmp_path
):
    log = tmp_path / "log.txt"
    shared = [*ARGUMENTS, f"--data.table={write_cohort(9)}"]
    shared += [f"--data.cache_dir={tmp_path / 'cache'}"]
    generator = random.Random(os.environ.get("MCTL_SEED", "1"))
    began = time.monotonic()
    codes = _end(_agents([*shared, f"--run={tmp_path / 'whole'}"], log))
    assert codes == [0, 0], log.read_text()[-3000:]
    duration = time.monotonic() - began
    num_kills, num_finished = 0, 0
    while num_kills < NUM_KILLS:
        run = tmp_path / f"broken{num_finished}"
        agents = _agents([*shared, f"--run={run}"], log)
        for _ in range(min(KILLS_A_RUN, NUM_KILLS - num_kills)):
            time.sleep(generator.uniform(0, duration))
            if any(agent.poll() is not None for agent in agents):
                break
            if workers := _workers(agents):
                os.kill(generator.choice(workers), signal.SIGKILL)
                num_kills += 1
        assert _end(agents) == [0, 0], log.read_text()[-3000:]
        assert_same_outcome(tmp_path / "whole", run, killed=True)
        num_finished += 1
    print(f"{num_kills} workers killed, {num_finished} runs of {duration:.0f} s finished")
