"""A sweep on a real cluster: the same results bit for bit, whatever happens on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from supervisor.rows.results import read
from tests.cluster.place import ClusterPlace, thorough, verified
from tests.cluster.proxy import Proxy
from tests.cluster.sshd import Sshd
from tests.support.cli import ROOT, Started, kept_in
from tests.support.waiting import LONG_S, wait_for

pytestmark = pytest.mark.slurm

N = 60

# finishes what it can, then waits in each shard at one combination until it may go on
BODY = """
def f(bars, params, stop):
    if params["a"] % 20 == 15 and not (HERE / "go").exists():
        mark("ready")
        if stop.wait():
            return None
    return {"sharpe": params["a"] / 7, "twice": 2.0 * params["a"], "odd": 0.1 * params["a"] ** 2}
"""


def sweep_argv(
    there: ClusterPlace, *options: str, run_dir: str = "run", body: str = BODY
) -> list[str]:
    return there.argv(
        "run", "--data", str(there.data), "--strategy", there.strategy(body), "--grid",
        f"a=0:{N - 1}", "--run-dir", str(there.root / run_dir), "--json", *options,
    )  # fmt: skip


def on_cluster(there: ClusterPlace, *options: str) -> Started:
    return there.start(sweep_argv(there, "--slurm", "--tasks", "3", *options))


def local(there: ClusterPlace) -> bytes:
    """What the sweep comes to on this machine."""
    go = there.mark("go")
    held = not go.exists()
    go.touch()
    begun = there.start(sweep_argv(there, run_dir="local"))
    assert begun.end() == 0, begun.tell_end()
    if held:
        go.unlink()
    return bits(there.root / "local")


def bits(run_dir: Path) -> bytes:
    table = read(run_dir / "results.parquet")
    columns = [table.column(name).combine_chunks().to_pylist() for name in table.column_names]
    return repr((table.column_names, columns)).encode()


def wait_shards(there: ClusterPlace, begun: Started, n: int = 3) -> None:
    """Wait until so many shards have come to where they wait."""
    begun.wait_for(
        lambda: len(list(there.root.glob("ready-*"))) >= n, f"{n} shards at work", timeout_s=LONG_S
    )


def finished(run_dir: Path) -> Counter[int]:
    """What the shards' journals hold."""
    found: Counter[int] = Counter()
    for shard in sorted((run_dir / "shards").glob("*")):
        found.update(kept_in(shard))
    return found


def rows(run_dir: Path) -> list[int]:
    return sorted(row["a"] for row in read(run_dir / "results.parquet").to_pylist())


def test_it_equals_the_local_run(there: ClusterPlace) -> None:
    there.mark("go").touch()
    begun = on_cluster(there)
    assert begun.end(LONG_S) == 0, begun.tell()
    assert bits(begun.run_dir) == local(there)
    assert set(verified(begun.report).values()) == {"completed"}
    there.assert_nothing_outstanding()


@pytest.mark.parametrize("how", ["resume", "run --resume --slurm"])
def test_a_stop_in_the_middle_keeps_what_is_done_and_is_carried_on(
    there: ClusterPlace, how: str
) -> None:
    begun = on_cluster(there)
    wait_shards(there, begun)
    begun.signal(signal.SIGINT)
    assert begun.end(LONG_S) == 128 + signal.SIGINT, begun.tell()
    there.assert_no_jobs()
    assert set(verified(begun.report).values()) == {"cancelled"}
    assert begun.report["status"] == "stopped"
    assert rows(begun.run_dir) == sorted(finished(begun.run_dir))
    assert len(rows(begun.run_dir)) >= 3 * 15
    there.assert_nothing_outstanding()
    there.mark("go").touch()
    if how == "resume":
        said = there.command("resume", str(begun.run_dir))
        assert said.returncode == 0, said.stdout + said.stderr
    else:
        again = on_cluster(there, "--resume")
        assert again.end(LONG_S) == 0, again.tell()
    assert bits(begun.run_dir) == local(there)
    there.assert_nothing_outstanding()


def test_a_copy_of_a_living_sweep_has_jobs_of_its_own(there: ClusterPlace) -> None:
    begun = on_cluster(there)
    wait_shards(there, begun)
    copy = Path(shutil.copytree(begun.run_dir, there.root / "copy", symlinks=True))
    (job,) = there.alive_jobs()
    refused = there.command("jobs", str(copy), "--cancel")
    assert (refused.returncode, "is a copy of" in refused.stderr) == (2, True), refused
    assert list(there.alive_jobs()) == [job]
    there.mark("go").touch()
    argv = sweep_argv(there, "--slurm", "--tasks", "3", "--resume", run_dir="copy")
    again = there.start(argv)
    assert again.popen.wait() == 0, again.tell_end()
    assert begun.popen.poll() is None, "its shards wait for what they saw before"
    there.command("stop", str(begun.run_dir))
    begun.end(LONG_S)
    assert begun.report["status"] == "stopped"
    there.assert_no_jobs()
    report = json.loads((copy / "report.json").read_text())
    assert report["status"] == "completed"
    assert report["run_id"] != begun.report["run_id"]
    assert {one["token"] for one in report["jobs"]}.isdisjoint(
        one["token"] for one in begun.report["jobs"]
    )
    assert bits(copy) == local(there)
    there.assert_nothing_outstanding()


def test_requeued_shards_are_carried_on(there: ClusterPlace) -> None:
    begun = on_cluster(there)
    wait_shards(there, begun)
    (job,) = there.alive_jobs()
    there.mark("go").touch()  # for those that begin from now on
    for task, _ in tasks(there, job):
        assert there.lab.run("scontrol", "requeue", task).returncode == 0
    # SLURM waits as long as a credential holds before it starts one again
    assert begun.end(LONG_S) == 0, begun.tell()
    assert {attempts(begun, shard) for shard in range(3)} == {2}
    assert bits(begun.run_dir) == local(there)
    there.assert_nothing_outstanding()


@thorough
def test_shards_whose_node_dies_are_carried_on(there: ClusterPlace) -> None:
    begun = on_cluster(there)
    wait_shards(there, begun)
    (job,) = there.alive_jobs()
    there.mark("go").touch()
    nodes = {node for _, node in tasks(there, job)}
    for node in nodes:
        down = ("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        assert there.lab.run(*down).returncode == 0
    for node in nodes:
        there.lab.run("scontrol", "update", f"nodename={node}", "state=resume")
    assert begun.end(240) == 0, begun.tell()
    assert {attempts(begun, shard) for shard in range(3)} == {2}
    assert bits(begun.run_dir) == local(there)
    there.assert_nothing_outstanding()


def attempts(begun: Started, shard: int) -> int:
    """How often a shard was resumed; the first time counts."""
    plan = begun.run_dir / "shards" / f"{shard:05d}" / "run.json"
    return int(json.loads(plan.read_text())["resumed"])


def tasks(there: ClusterPlace, job: str) -> list[tuple[str, str]]:
    """Id and node of each task of an array."""
    lines = there.lab.run("squeue", "-h", "-r", "-j", job, "-o", "%i %N").stdout.splitlines()
    return [(line.split()[0], line.split()[1]) for line in lines]


def see_it_cleared(there: ClusterPlace, begun: Started) -> None:
    """See a run whose front was killed finished by others: no job left, no row lost."""
    wait_for(lambda: not there.alive_jobs(), "the jobs gone", tell=begun.tell)
    report = begun.wait_report()
    assert set(verified(report).values()) == {"cancelled"}
    assert rows(begun.run_dir) == sorted(finished(begun.run_dir))
    assert len(rows(begun.run_dir)) >= 3 * 15
    wait_for(lambda: not there.outstanding, "no outstanding jobs")


@pytest.mark.parametrize("who", ["front", pytest.param("both", marks=thorough)])
def test_killed_processes_leave_no_shard_and_lose_nothing(there: ClusterPlace, who: str) -> None:
    begun = on_cluster(there)
    wait_shards(there, begun)
    begun.look_below()
    if who == "both":
        os.kill(begun.warden, signal.SIGKILL)
    begun.kill_front()
    if who == "both":
        assert there.command("reap").returncode == 0
    see_it_cleared(there, begun)
    there.mark("go").touch()
    assert there.command("resume", str(begun.run_dir)).returncode == 0
    assert bits(begun.run_dir) == local(there)


def test_a_detached_sweep_is_collected(there: ClusterPlace) -> None:
    begun = on_cluster(there, "--detach")
    assert begun.end() == 143, begun.tell()
    assert begun.report["status"] == "stopped"
    assert "resume" in begun.report["reason"]
    wait_for(lambda: len(list(there.root.glob("ready-*"))) == 3, "shards at work", tell=begun.tell)
    refused = there.command("resume", str(begun.run_dir))
    assert refused.returncode != 0
    assert "is still on the cluster" in refused.stderr
    there.mark("go").touch()
    for path in there.root.glob("ready-*"):
        path.unlink()
    (job,) = there.jobs()
    # tasks that wait for a message end with their job
    assert there.command("jobs", str(begun.run_dir), "--cancel").returncode == 0
    wait_for(lambda: not there.alive_jobs(), f"job {job} ended")
    said = there.command("resume", str(begun.run_dir))
    assert said.returncode == 0, said.stdout + said.stderr
    assert bits(begun.run_dir) == local(there)
    there.assert_nothing_outstanding()


def test_a_stop_of_a_detached_sweep_before_it_is_let_go(there: ClusterPlace) -> None:
    """However the jobs end, the report never says completed."""
    there.lab.slurmctld.freeze()
    begun = on_cluster(there, "--detach")
    begun.wait_for(lambda: "submit_intended" in ledger(begun), "the call under way")
    begun.signal(signal.SIGINT)
    there.lab.slurmctld.thaw()
    assert begun.end(LONG_S) != 0, begun.tell()
    assert begun.report["status"] != "completed"
    said = there.command("jobs", str(begun.run_dir), "--cancel")
    assert said.returncode == 0, said.stdout + said.stderr
    wait_for(lambda: not there.alive_jobs(), "no job left", tell=begun.tell)


def ledger(begun: Started) -> str:
    path = begun.run_dir / "ledger"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--job", "foo=1"), "unknown job option foo"),
        (("--job", "cpus=many"), "cpus"),
        (("--job", "time_limit=soon"), "time_limit"),
        (("--job", "partition=nowhere"), "partition"),
        (("--tasks", "0"), "tasks"),
        (("--lease", "-1"), "lease"),
        (("--cluster", "carrier:pigeon"), "must be local or ssh:HOST"),
        (("--cluster", "ssh:nowhere.invalid"), "no host nowhere.invalid"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    there: ClusterPlace, options: tuple[str, ...], said: str
) -> None:
    argv = [word for word in sweep_argv(there, "--slurm", *options) if word != "--json"]
    begun = there.start(argv)
    assert begun.end() == 2, begun.tell()
    complaint = [line for line in begun.err.splitlines() if line.startswith("allstop:")]
    assert len(complaint) == 1
    assert said in complaint[0]
    assert "Traceback" not in begun.err
    assert not begun.run_dir.exists()
    there.assert_nothing_outstanding()


def test_no_slurm_here_is_one_line(there: ClusterPlace) -> None:
    tools = there.root / "tools"
    tools.mkdir()
    for name in ("sh", "mkdir", "rm", "id"):
        (tools / name).symlink_to(shutil.which(name) or name)
    there.env["PATH"] = str(tools)
    begun = on_cluster(there)
    assert begun.end() == 2, begun.tell()
    assert "no sbatch on its PATH" in begun.err
    assert not begun.run_dir.exists()
    there.assert_nothing_outstanding()


@pytest.fixture
def remote(there: ClusterPlace, sshd: Sshd, proxy: Proxy) -> ClusterPlace:
    """The place, with the cluster behind ``ssh:proxy`` only."""
    there.env["ALLSTOP_SSH_CONFIG"] = str(sshd.ssh_config)
    del there.env["SLURM_CONF"]
    return there


def over_ssh(there: ClusterPlace, *options: str, strategy: str = "") -> Started:
    # the strategy is carried elsewhere: its marks go where this place's do
    body = BODY.replace("def f", f"HERE = Path({str(there.root)!r})\ndef f")
    argv = sweep_argv(
        there, "--cluster", "ssh:proxy", "--tasks", "3", "--python", sys.executable,
        "--job", f"setup=export PYTHONPATH={ROOT}", *options, body=body,
    )  # fmt: skip
    if strategy:
        argv[argv.index("--strategy") + 1] = strategy
    return there.start(argv)


def copies(there: ClusterPlace) -> list[Path]:
    """Copies, in the home directory over there, of runs that were started here: they name it."""
    found = []
    for file in (Path.home() / ".allstop" / "runs").glob("*/*"):
        with contextlib.suppress(OSError):
            if str(there.root).encode() in file.read_bytes():
                found.append(file.parent)
    return found


@pytest.mark.ssh
@pytest.mark.parametrize("cut", [False, True])
def test_over_ssh_a_stop_fetches_what_is_done(
    remote: ClusterPlace, proxy: Proxy, cut: bool
) -> None:
    begun = over_ssh(remote)
    wait_shards(remote, begun)
    begun.signal(signal.SIGINT)
    if cut:
        begun.wait_for(lambda: "cancel_wanted" in ledger(begun), "the cancel under way")
        proxy.cut()
    assert begun.end(LONG_S) == 128 + signal.SIGINT, begun.tell()
    remote.assert_no_jobs()
    assert set(verified(begun.report).values()) == {"cancelled"}
    assert len(rows(begun.run_dir)) >= 3 * 15
    assert rows(begun.run_dir) == sorted(finished(begun.run_dir))
    remote.mark("go").touch()
    if cut:
        said = remote.command("resume", str(begun.run_dir))
        assert said.returncode == 0, said.stdout + said.stderr
    else:
        again = over_ssh(remote, "--resume")
        assert again.end(LONG_S) == 0, again.tell()
    assert not copies(remote)
    assert bits(begun.run_dir) == local(remote)
    remote.assert_nothing_outstanding()


@pytest.mark.ssh
def test_over_ssh_the_front_is_killed_and_nothing_is_lost(
    remote: ClusterPlace, proxy: Proxy
) -> None:
    begun = over_ssh(remote)
    wait_shards(remote, begun)
    begun.look_below()
    begun.kill_front()
    see_it_cleared(remote, begun)
    assert copies(remote)
    remote.mark("go").touch()
    said = remote.command("resume", str(begun.run_dir))
    assert said.returncode == 0, said.stdout + said.stderr
    assert not copies(remote)
    assert bits(begun.run_dir) == local(remote)


@pytest.mark.ssh
def test_over_ssh_a_module_cannot_be_carried(remote: ClusterPlace) -> None:
    remote.strategy(BODY)
    remote.env["PYTHONPATH"] += f":{remote.root}"
    begun = over_ssh(remote, strategy="strategy:f")
    assert begun.end() == 2, begun.tell()
    assert "cannot be copied" in begun.err
    assert len([line for line in begun.err.splitlines() if line.startswith("allstop:")]) == 1
    assert not begun.run_dir.exists()
    assert not copies(remote)
    remote.assert_nothing_outstanding()
