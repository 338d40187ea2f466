"""The batch scripts and the targets that submit them, with stand-ins for SLURM's commands."""

import os
import shlex
import subprocess

import pytest

JOB = {
    "SLURM_JOB_ID": "70",
    "SLURM_ARRAY_JOB_ID": "70",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_NNODES": "3",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "5",
    "MASTER_ADDR": "127.0.0.1",
}
STAND_IN = """#!/bin/bash
{{ printf '%s|' {name} "$@"; echo; }} >> "$CALLS"
exit {code}
"""


@pytest.fixture
def run_script(tmp_path):
    """Return a function that runs a script: its exit code, and the commands that it called."""

    def run(name, *arguments, code, restarts=0):
        for command, its_code in (("srun", code), ("scontrol", 0)):
            (tmp_path / command).write_text(STAND_IN.format(name=command, code=its_code))
            (tmp_path / command).chmod(0o755)
        calls = tmp_path / "calls"
        calls.write_text("")
        env = os.environ | JOB | {"CALLS": str(calls), "SLURM_RESTART_COUNT": str(restarts)}
        env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", f"configs/cluster/{name}.sbatch", *arguments], env=env)
        return done.returncode, [line.split("|")[:-1] for line in calls.read_text().splitlines()]

    return run


@pytest.mark.parametrize(("name", "job"), [("array", "70_2"), ("pretrain", "70")])
@pytest.mark.parametrize(
    ("code", "restarts"), [(0, 0), (2, 0), (143, 0), (75, 0), (75, 49), (75, 50)]
)
def test_a_script_ends_with_the_code_of_its_training_and_requeues_only_after_75(
    run_script, name, job, code, restarts
):
    ended, calls = run_script(name, "python", code=code, restarts=restarts)
    assert ended == code
    requeues = [call for call in calls if call[0] == "scontrol"]
    assert requeues == ([["scontrol", "requeue", job]] if code == 75 and restarts < 50 else [])


def test_a_task_of_an_array_learns_its_number_and_nothing_else_changes(run_script):
    given = ["python", "main.py", "--data.table=a b.csv", "--init=x--task=%a", "--task=%a"]
    _, (call,) = run_script("array", *given, code=0)
    assert call == ["srun", *given[:-1], "--task=2"]


def test_one_process_prepares_then_one_for_each_device_trains(run_script):
    _, (prepare, train) = run_script("pretrain", "python", "--data.table=a b.csv", code=0)
    command = ["python", "--data.table=a b.csv", "--trainer.strategy=ddp", "--trainer.num_nodes=3"]
    command += ["--trainer.devices=4"]
    assert prepare[-len(command) - 1 :] == [*command, "--only=prepare"]
    assert "--ntasks=1" in prepare
    assert train == ["srun", "--wait=300", *command]


def test_nothing_is_trained_where_the_preparation_fails(run_script):
    assert run_script("pretrain", "python", code=2)[0] == 2
    assert len(run_script("pretrain", "python", code=2)[1]) == 1


def test_gathering_is_the_command_itself(run_script):
    assert run_script("gather", "sh", "-c", "exit 2", code=0) == (2, [])


def test_the_commands_that_are_submitted_are_those_that_make_runs():
    given = ["DATA=a b.csv", "RUN=x", "INIT=y", "TASKS=25", "SLURM_ARGS=--account=knee"]

    def dry(target):
        command = ["make", "-n", "-o", ".venv/.ready", target, *given]
        alone = {key: text for key, text in os.environ.items() if not key.startswith("MAKE")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
        return done.stdout

    for verb, step in (("pretrain", []), ("finetune", ["--only=gather"])):
        words = shlex.split(dry(verb)) + step
        submitted = shlex.split(dry(f"slurm-{verb}").splitlines()[-1])
        assert submitted[-len(words) :] == words
        assert submitted[0] == "sbatch"
        assert "--account=knee" in submitted
    assert "--array=0-$((25 - 1)) --account=knee" in dry("slurm-finetune")
    assert "--only=train --num_tasks=25 --task=%a)" in dry("slurm-finetune")
