"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmd in one folder."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin"  # where Debian has daemons
USER = pwd.getpwuid(os.geteuid()).pw_name
NODES = ("n1", "n2")
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=60
MinJobAge=3600
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 MaxTime=INFINITE
PartitionName=high Nodes=n1,n2 PriorityTier=10 MaxTime=INFINITE
"""


def why_not() -> str | None:
    """Say why this machine cannot run a SLURM of its own; None if it can. It needs no root."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    packages = "Debian: slurmctld slurmd slurm-client munge"
    return f"{', '.join(missing)} not installed ({packages})" if missing else None


class Cluster:
    """The running cluster, spoken to with SLURM's own commands.

    Args:
        folder: Folder of configuration, state and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {
            "PATH": PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",  # the names n1 and n2 resolve to nothing
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
        }

    def run(self, *command: str | Path, check: bool = True, timeout_s: float = 60) -> str:
        """Run a command that speaks to this cluster, and return what it printed."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def fact(self, job: str, name: str) -> str:
        """One field of a job, as `scontrol show job` gives it."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait_for(self, job: str, *states: str, timeout_s: float = 500) -> str:
        """Wait until a job is in one of the states, or in any that it cannot leave."""
        end = time.monotonic() + timeout_s
        while (state := self.fact(job, "JobState")) not in (*states, *ENDED):
            assert time.monotonic() < end, f"job {job} is still {state}"
            time.sleep(0.5)
        return state


def logs(folder: Path) -> str:
    """What the jobs wrote into their *.out files of a folder."""
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in folder.glob("*.out"))


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Start the daemons as children of this process, wait for both nodes, and end them all."""
    cluster = Cluster(folder)
    names = {"host": socket.gethostname(), "user": USER, "folder": folder}
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(CONFIG.format(**names, ports=_free_ports(3)))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    options = [
        f"--{name}={folder}/munge.{end}" for name, end in (munge | {"seed-file": "seed"}).items()
    ]
    commands = [["munged", "--foreground", "--force", *options], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", node] for node in NODES]
    daemons = []
    try:
        for command in commands:
            daemons.append(_start(command, cluster))
            if command[0] == "munged":
                _wait_until((folder / "munge.socket").exists, cluster)
        _wait_until(lambda: cluster.run("sinfo", "-ho", "%T", check=False) == "idle\n", cluster)
        try:
            yield cluster
        finally:  # the processes of a job outlive the daemons
            cluster.run("scancel", "--full", "--signal=KILL", f"--user={USER}", check=False)
            _wait_until(lambda: "R" not in cluster.run("squeue", "-ho", "%t"), cluster)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=30)


def _start(command: list[str], cluster: Cluster) -> subprocess.Popen:
    with (cluster.folder / "daemons.log").open("a") as log:
        return subprocess.Popen(command, env=cluster.env, stdout=log, stderr=log)


def _wait_until(condition: Callable[[], bool], cluster: Cluster) -> None:
    end = time.monotonic() + 30
    while not condition():
        log = cluster.folder / "daemons.log"
        assert time.monotonic() < end, f"the cluster does not answer: {log.read_text()[-2000:]}"
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    """Ports that nothing listens on now, each another one."""
    with ExitStack() as stack:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
        for each in sockets:
            stack.enter_context(each)
        return [each.getsockname()[1] for each in sockets]
