"""A real SLURM: one controller, its munge, several nodes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import uuid
from functools import partial
from pathlib import Path

from tests.cluster.daemon import ClusterError, Daemon, Home, free_ports, listens
from tests.cluster.slurm_conf import GPUS, cgroup_conf, gres_conf, slurm_conf
from tests.support.waiting import wait_for

_ITS_VARIABLES = re.compile(r"(SLURM|SLURMD|SBATCH|SALLOC|SRUN|SCANCEL|SQUEUE|SINFO|SACCT)_")
_IN_SERVICE = {"idle", "mixed", "allocated", "completing"}
_NODE_PORT = re.compile(r"NodeName=(\S+) .*Port=(\d+)")


class Lab:
    """A cluster that lives in one directory.

    Attributes
    ----------
    directory, slurm_conf : Path
        Everything the cluster has is in the first; programs find it by the second.
    environment : dict
        In which ``sbatch`` and the others speak to this cluster.
    nodes : list of str
        Names of the nodes.
    munged, slurmctld : Daemon
        To freeze, thaw, kill and start again; ``slurmd`` has those of the nodes by name.
    """

    def __init__(self, directory: Path, nodes: int = 4, cpus: int = 8) -> None:
        self._home = Home(directory)
        self.directory = directory
        self.cpus = cpus
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.slurm_conf = directory / "slurm.conf"
        self.environment = environment(self.slurm_conf)
        self.munged = self._daemon(
            "munged", "munged", "--foreground", f"--key-file={directory}/munge.key",
            f"--socket={directory}/munge.socket", f"--pid-file={directory}/munge.own-pid",
            f"--seed-file={directory}/munge.seed", "--force",
        )  # fmt: skip
        self.slurmctld = self._daemon("slurmctld", "slurmctld", "-D")
        self.slurmctld.before_kill = self._see_earlier_ends_saved
        self._jobs_ended_at = 0.0
        self.slurmd = {
            name: self._daemon(
                f"slurmd-{name}", *as_host(name, self._boot_id_of(name)),
                "slurmd", "-D", "-N", name,
            )
            for name in self.nodes
        }  # fmt: skip

    def _boot_id_of(self, name: str) -> Path:
        return self.directory / f"boot-id-{name}"

    def up(self) -> None:
        """Start all of it; return when every node waits for jobs. In vain: nothing is left."""
        self._home.make()
        try:
            self._furnish()
            for daemon in self.daemons():
                daemon.start()
            self.wait_ready()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Kill all of it, jobs included, and remove the directory."""
        self._home.clear()

    def daemons(self) -> list[Daemon]:
        """All of them, in the order in which they start."""
        return [self.munged, self.slurmctld, *self.slurmd.values()]

    def wait_ready(self) -> None:
        """Wait until the controller answers and every node could take a job."""
        self.munged.until((self.directory / "munge.socket").exists, "a socket")
        self.slurmctld.until(lambda: " is UP" in self._ask("scontrol", "ping"), "answers a ping")
        ports = dict(_NODE_PORT.findall(self.slurm_conf.read_text()))
        for name, slurmd in self.slurmd.items():
            # of one that was started again the controller thinks as it did before: a job that it
            # sends too early is lost, and starts again by a requeue, if at all
            slurmd.until(partial(listens, int(ports[name])), "listening")
        self._wait_in_service()
        for daemon in self.daemons():
            daemon.harmed = False

    def revive(self) -> None:
        """Have every daemon run that was frozen, stopped or killed."""
        if all(one.identity and not one.harmed for one in self.daemons()):
            return
        for daemon in self.daemons():
            daemon.thaw()
            daemon.start()
        self.wait_ready()

    def reset(self) -> None:
        """Undo what a test did to it: daemons run, nodes are in service, no job is left."""
        self.revive()
        wait_for(self._empty, "no job left", tell=lambda: self._ask("squeue", "--states=all"))
        self._wait_in_service()

    def run(self, *argv: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command that speaks to this cluster."""
        return subprocess.run(
            argv, env=self.environment, cwd=self.directory, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def submit(self, script: str, *options: str) -> int:
        """Submit a batch script (lines of sh) and return the job's id."""
        said = self.run("sbatch", "--parsable", *options, f"--wrap={script}")
        if said.returncode != 0:
            raise ClusterError(f"sbatch: {said.stderr}")
        return int(said.stdout.partition(";")[0])

    def states(self, job: int) -> list[str]:
        """States of a job's tasks, long form; of one that is no array there is one."""
        return self._ask("squeue", "-h", "-r", "-t", "all", "-j", str(job), "-o", "%T").split()

    def wait_state(self, job: int, state: str) -> None:
        """Wait until all of a job's tasks have come to a state."""
        wait_for(
            lambda: set(self.states(job)) == {state},
            f"job {job} {state}",
            tell=lambda: self._ask("scontrol", "show", "job", str(job)),
        )

    def _furnish(self) -> None:
        """Write the key, the configuration and the fake GPUs."""
        key = self.directory / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        for name in ("state", "cgroup"):
            (self.directory / name).mkdir()
        for name in self.nodes:
            self._boot_id_of(name).write_text(f"{uuid.uuid4()}\n")
        for number in range(GPUS):
            (self.directory / f"gpu{number}").symlink_to("/dev/null")
        port, *ports = free_ports(1 + len(self.nodes))
        nodes = dict(zip(self.nodes, ports, strict=True))
        self.slurm_conf.write_text(slurm_conf(self.directory, port, nodes, self.cpus))
        self._write("gres.conf", gres_conf(self.directory))
        self._write("cgroup.conf", cgroup_conf(self.directory, version()))

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def _daemon(self, name: str, *argv: str) -> Daemon:
        return Daemon(self.directory, name, list(argv), {"SLURM_CONF": str(self.slurm_conf)})

    def _ask(self, *argv: str) -> str:
        return self.run(*argv).stdout

    def _wait_in_service(self) -> None:
        """Wait until every node could take a job."""
        try:
            wait_for(lambda: not self._out_of_service(), "every node in service")
        except AssertionError:
            for name in self._out_of_service():  # the log of the first one tells
                self.slurmd[name].until(lambda: False, "registered with the controller", 0.0)
            raise

    def _out_of_service(self) -> list[str]:
        said = self._ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T")
        states = dict(line.split() for line in said.splitlines())
        for node, state in states.items():
            if "drain" in state or state == "down":  # it was asked for a job that it had already
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        return [node for node in self.nodes if states.get(node) not in _IN_SERVICE]

    def _empty(self) -> bool:
        # before it is asked: a job that ends meanwhile may be saved before the answer is here. And
        # a file's time is that of the last tick of the clock
        asked_at = time.time() - 0.01
        jobs = set(self._ask("squeue", "-h", "-o", "%F").split())
        if jobs:
            self._jobs_ended_at = asked_at
            # at once: a job that ignores SIGTERM would be waited for
            self.run("scancel", "--signal=KILL", "--full", *jobs)
            self.run("scancel", *jobs)
        return not jobs

    def _see_earlier_ends_saved(self) -> None:
        """Wait until the controller, which saves every 5 s, has saved the ends of earlier tests.

        Otherwise one that is killed and started again would still count their jobs as running.
        """
        state = self.directory / "state" / "job_state"
        if not self.slurmctld.harmed and self._jobs_ended_at:
            wait_for(
                lambda: state.exists() and state.stat().st_mtime >= self._jobs_ended_at,
                "the state saved",
            )


def environment(slurm_conf: Path) -> dict[str, str]:
    """Ours, speaking to that cluster, without what would change what SLURM's commands do."""
    kept = {name: value for name, value in os.environ.items() if not _ITS_VARIABLES.match(name)}
    return kept | {"SLURM_CONF": str(slurm_conf)}


def version() -> tuple[int, int]:
    """Return the installed SLURM's version, as (22, 5)."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    said = subprocess.run(
        [shutil.which("slurmctld", path=path) or "slurmctld", "-V"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    year, month = said.split()[-1].split(".")[:2]
    return int(year), int(month)


_AS_HOST = """
hostname "$1"
mount --bind "$2" /proc/sys/kernel/random/boot_id
shift 2
exec "$@"
"""


def as_host(name: str, boot_id: Path) -> list[str]:
    """What makes a program live on a host of another name and another boot.

    Its jobs do then, as on a cluster whose nodes share a home. Needs root: for an ordinary user
    all nodes are this host.
    """
    if os.geteuid() != 0:
        return []
    return ["unshare", "--mount", "--uts", "sh", "-ec", _AS_HOST, "sh", name, str(boot_id)]
