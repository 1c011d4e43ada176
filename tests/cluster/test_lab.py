"""The cluster itself: it does what a cluster does, and goes without trace."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from supervisor.system.process import command_name
from tests.cluster.daemon import COOKIE, ClusterError, Home, new_directory
from tests.cluster.lab import Lab
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@pytest.fixture
def another(lab: Lab) -> Iterator[Lab]:
    """A second, small cluster beside the session's."""
    small = Lab(new_directory(), nodes=1, cpus=2)
    yield small
    small.down()


def ports_of(lab: Lab) -> list[int]:
    return [int(port) for port in re.findall(r"Port=(\d+)", lab.slurm_conf.read_text())]


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def leads_to(fd: Path) -> str:
    with contextlib.suppress(FileNotFoundError):  # closed since it was listed
        return str(fd.readlink())
    return ""


def output(lab: Lab, name: str) -> str:
    return (lab.directory / name).read_text()


def test_a_job_runs_on_two_nodes(lab: Lab) -> None:
    job = lab.submit('srun sh -c "echo on \\$SLURMD_NODENAME"', "--nodes=2", "--output=two.out")
    lab.wait_state(job, "COMPLETED")
    said = output(lab, "two.out").split("\n")
    assert len([line for line in said if line in {f"on {node}" for node in lab.nodes}]) == 2


def test_every_task_of_an_array_runs(lab: Lab) -> None:
    job = lab.submit("true", "--array=0-9", "--output=/dev/null")
    lab.wait_state(job, "COMPLETED")
    assert len(lab.states(job)) == 10


def test_gpus_are_handed_out_one_by_one(lab: Lab) -> None:
    script = "echo $CUDA_VISIBLE_DEVICES"
    options = ("--partition=gpu", "--nodelist=n1", "--output=gpu-%j.out")
    jobs = [lab.submit(f"{script}; sleep 600", "--gres=gpu:1", *options) for _ in range(2)]
    wait_for(
        lambda: all((lab.directory / f"gpu-{job}.out").exists() for job in jobs), "both running"
    )
    seen = [wait_for(partial(output, lab, f"gpu-{job}.out"), "a line") for job in jobs]
    assert sorted(seen) == ["0\n", "1\n"]
    assert lab.run("sbatch", "--gres=gpu:3", "--nodes=1", "--wrap=true").returncode != 0


def test_a_job_in_low_makes_way(lab: Lab) -> None:
    low = lab.submit("sleep 600", "--partition=low", "--exclusive", f"--nodes={len(lab.nodes)}",
                     "--output=/dev/null")  # fmt: skip
    lab.wait_state(low, "RUNNING")
    above = lab.submit("true", "--exclusive", "--output=/dev/null")
    lab.wait_state(above, "COMPLETED")
    assert "Restarts=1" in lab.run("scontrol", "-o", "show", "job", str(low)).stdout


def test_two_clusters_stand_side_by_side(
    lab: Lab, another: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "of the caller")
    another.up()
    ours = lab.submit("true", "--output=/dev/null")
    theirs = another.submit("sleep 600", "--output=/dev/null")
    another.wait_state(theirs, "RUNNING")
    lab.wait_state(ours, "COMPLETED")
    another.down()
    assert "UP" in lab.run("scontrol", "ping").stdout


def test_daemons_inherit_nothing(
    lab: Lab, another: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            another.up()
        finally:
            signal.signal(signal.SIGINT, ours)
        for daemon in another.daemons():
            assert daemon.identity is not None
            of_it = Path(f"/proc/{daemon.identity.pid}")
            assert lock.name not in map(leads_to, (of_it / "fd").iterdir())
            assert b"SLURM_JOB_ID" not in (of_it / "environ").read_bytes()
    job = another.submit("grep SigIgn /proc/self/status", "--output=ignored.out")
    another.wait_state(job, "COMPLETED")
    assert not int(output(another, "ignored.out").split()[1], 16) & 1 << signal.SIGINT - 1


def test_down_leaves_nothing(another: Lab) -> None:
    another.up()
    home, ports = Home(another.directory), ports_of(another)
    # one that ignores what it is told, and one that gets away from the job
    job = another.submit("trap '' TERM; (setsid sleep 601 &); srun sleep 602", "-n2", "-o/dev/null")
    another.wait_state(job, "RUNNING")
    wait_for(
        lambda: [command_name(i.pid) for i in home.processes()].count("sleep") == 3, "its processes"
    )
    before = home.processes()
    assert {"slurmctld", "slurmd", "slurmstepd", "munged"} <= {command_name(i.pid) for i in before}
    assert all(accepts(port) for port in ports)
    another.down()
    assert not any(process.alive for process in before)
    assert not home.processes()
    assert not another.directory.exists()
    assert not any(accepts(port) for port in ports)


def test_what_is_not_ours_is_left_alone() -> None:
    place = new_directory()
    (place / "thesis").touch()
    inside = subprocess.Popen(["sleep", "600"], env=os.environ | {COOKIE: str(place / "below")})
    try:
        with pytest.raises(ClusterError, match="left alone"):
            Lab(place).down()
        assert (place / "thesis").exists()
        assert inside.poll() is None
    finally:
        inside.kill()
        inside.wait()
        shutil.rmtree(place)


def test_who_does_not_start_says_why(another: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cluster.lab.slurm_conf", lambda *_: "Nonsense=1\n")
    with pytest.raises(ClusterError, match=r"slurm(ctld|d-n1) has ended(?s:.)*Nonsense"):
        another.up()
    assert not another.directory.exists()


def test_a_path_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(ClusterError, match="too long"):
        Lab(Path("/tmp") / ("x" * 80))


def test_a_frozen_controller_answers_once_it_is_thawed(lab: Lab) -> None:
    lab.slurmctld.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run("squeue", timeout_s=0.5)
    lab.slurmctld.thaw()
    assert lab.run("squeue").returncode == 0


def test_a_frozen_munge_holds_everybody_up(lab: Lab) -> None:
    lab.munged.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run("squeue", timeout_s=0.5)
    lab.munged.thaw()
    assert lab.run("squeue").returncode == 0


def test_a_job_outlives_its_controller(lab: Lab) -> None:
    job = lab.submit("until [ -e over ]; do sleep 0.1; done", "--output=/dev/null")
    lab.wait_state(job, "RUNNING")
    lab.slurmctld.stop()
    assert "DOWN" in lab.run("scontrol", "ping").stdout
    (lab.directory / "over").touch()
    lab.slurmctld.start()
    lab.wait_ready()
    lab.wait_state(job, "COMPLETED")


def test_a_dead_node_comes_back(lab: Lab) -> None:
    lab.slurmd["n2"].kill()
    assert lab.slurmd["n2"].identity is None
    lab.slurmd["n2"].start()
    lab.wait_ready()
    job = lab.submit("true", "--nodelist=n2", "--output=/dev/null")
    lab.wait_state(job, "COMPLETED")


def test_a_reset_undoes_it_all(lab: Lab) -> None:
    job = lab.submit("sleep 600", "--output=/dev/null")
    lab.wait_state(job, "RUNNING")
    lab.slurmd["n1"].freeze()
    lab.slurmd["n3"].kill()
    lab.munged.kill()
    lab.slurmctld.freeze()
    lab.reset()
    assert lab.states(job) == ["CANCELLED"]
    assert lab.run("srun", "--nodes=4", "true", timeout_s=DEADLINE_S).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests ran as an ordinary user")
def test_an_ordinary_user_has_a_cluster_too(lab: Lab) -> None:
    place = new_directory()
    os.chown(place, NOBODY, NOBODY)
    as_user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    def say(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*as_user, *argv], capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE_S,
            env={"PATH": os.environ["PATH"], "HOME": str(place), "PYTHONPATH": str(ROOT)} | env,
        )  # fmt: skip

    def python(*argv: str, program: str = "") -> subprocess.CompletedProcess[str]:
        return say("env", program or usable[0], *argv)  # which has no rights left of setpriv's

    def cluster(word: str) -> subprocess.CompletedProcess[str]:
        return python("-m", "tests.cluster", word, f"--dir={place}/lab", "--nodes=2")

    usable = [
        program
        for program in (sys.executable, "/usr/bin/python3")
        if python("-c", "import tests.cluster.lab", program=program).returncode == 0
    ]
    try:
        if not usable:
            pytest.skip("an ordinary user may not read this checkout, or has no Python for it")
        assert (up := cluster("up")).returncode == 0, up.stderr
        conf = f"{place}/lab/slurm.conf"
        assert up.stdout.startswith(f"export SLURM_CONF={conf}\n")
        assert say("srun", "--nodes=2", "id", "-u", SLURM_CONF=conf).stdout == f"{NOBODY}\n" * 2
        assert cluster("down").returncode == 0
        assert not Home(place).processes()
        assert not (place / "lab").exists()
    finally:
        Home(place / "lab").clear()
        shutil.rmtree(place)


def test_a_cookie_is_not_handed_to_jobs(lab: Lab) -> None:
    """So a process found by it is a daemon: a job is found by its own variables."""
    job = lab.submit("env", "--output=env.out")
    lab.wait_state(job, "COMPLETED")
    assert COOKIE not in output(lab, "env.out")
