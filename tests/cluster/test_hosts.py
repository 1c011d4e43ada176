"""Two login nodes that share a home: what lives on one of them is not the other one's to judge."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.system.process import Identity, identities_below
from tests.cluster.lab import Lab, as_host
from tests.cluster.place import ClusterPlace, job
from tests.support.cli import Started
from tests.support.waiting import DEADLINE_S

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another host of this one"),
]

LONG = job("sleep 600", to="long")


@pytest.fixture
def elsewhere(there: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """A run on the other login node that waits for its job; only the home is shared."""
    boot_id = there.root / "boot-id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    (there.root / "runtime2").mkdir(mode=0o700)
    with monkeypatch.context() as patch:
        patch.setitem(there.env, "XDG_RUNTIME_DIR", str(there.root / "runtime2"))
        begun = there.start([*as_host("login2", boot_id), *there.shell_argv(LONG)])
    begun.wait_for(lambda: "command_ended" in begun.events, "the command's end")
    there.wait_jobs(1)
    yield begun
    begun.signal(signal.SIGINT)
    begun.popen.wait(DEADLINE_S)


def still_there(there: ClusterPlace, begun: Started) -> bool:
    return set(there.alive_jobs()) == {there.ids["long"]} and not begun.over


def test_its_job_is_left_alone_by_runs_and_by_reap(there: ClusterPlace, elsewhere: Started) -> None:
    other = there.command("run", "--run-dir", str(there.root / "small"), "--", "true")
    assert other.returncode == 0, other.stderr
    there.wait_sent_for()
    assert still_there(there, elsewhere), there.tell()
    said = there.command("reap")
    assert said.returncode == 0, said.stderr
    assert said.stdout == "nothing to clean up\n"
    assert still_there(there, elsewhere), there.tell()
    elsewhere.signal(signal.SIGINT)
    assert elsewhere.end() == 128 + signal.SIGINT, elsewhere.tell()
    there.assert_no_jobs()
    there.assert_nothing_outstanding()


@pytest.mark.parametrize("verb", ["stop", "report"])
def test_what_cannot_be_done_from_here_says_where(
    there: ClusterPlace, elsewhere: Started, verb: str
) -> None:
    said = there.command(verb, str(elsewhere.run_dir))
    assert said.returncode == 2, said.stdout + said.stderr
    assert "begun on login2, and cannot be judged from here" in said.stderr
    assert still_there(there, elsewhere)
    assert there.facts("status", str(elsewhere.run_dir))["host"] == "login2"


def test_a_dead_run_of_another_host_is_cleaned_up_when_it_is_named(
    there: ClusterPlace, elsewhere: Started
) -> None:
    """The node has burnt down; its jobs have not."""
    me = Identity.of(elsewhere.front)
    assert me is not None
    for who in [*identities_below(me), me]:  # the warden first: it would cancel the job
        who.send(signal.SIGKILL)
    elsewhere.popen.wait(DEADLINE_S)
    # in between, the front has seen the warden's death: it may have come as far as its report
    assert there.command("reap").stdout == "nothing to clean up\n"
    said = there.command("reap", str(elsewhere.run_dir))
    assert said.returncode == 0, said.stdout + said.stderr
    there.assert_no_jobs()
    there.assert_nothing_outstanding()


def test_the_nodes_of_this_cluster_are_other_hosts(lab: Lab, here: Path) -> None:
    out = here / "where"
    lab.submit("cat /proc/sys/kernel/random/boot_id; uname -n", f"--output={out}", "--wait")
    boot_id, name = out.read_text().split()
    assert name in lab.nodes
    assert boot_id != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
