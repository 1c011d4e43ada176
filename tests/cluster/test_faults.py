"""The controller, munge or a node fails: a stop is late or incomplete, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from slurm import Client
from slurm.errors import SubmissionUnknownError
from slurm.look import look
from slurm.reconcile import cancel_outstanding
from slurm.records.outstanding import all_outstanding
from supervisor.errors import AllstopError
from tests.cluster.daemon import Daemon
from tests.cluster.jobs import (
    LONG,
    all_gone,
    asked,
    meanwhile,
    ours,
    running,
    saved,
    under_way,
    wait_state,
)
from tests.cluster.lab import Lab
from tests.cluster.place import thorough
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def stop_daemon(daemon: Daemon, how: str) -> None:
    daemon.freeze() if how == "frozen" else daemon.kill()


def back(lab: Lab, daemon: Daemon) -> None:
    """Let a daemon be there again, whatever befell it."""
    daemon.thaw()
    if daemon.identity is None:
        daemon.start()
    lab.wait_ready()


def the_daemon(lab: Lab, name: str) -> Daemon:
    return lab.slurmctld if name == "slurmctld" else lab.munged


FAULTS = [
    ("slurmctld", "frozen"), ("slurmctld", "killed"), ("munged", "frozen"), ("munged", "killed"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), FAULTS)
def test_a_cancel_that_fails_leaves_jobs_outstanding_for_the_next(
    lab: Lab, here: Path, name: str, how: str
) -> None:
    daemon = the_daemon(lab, name)
    client = Client(lease_s=0)
    running(lab, client)
    client.submit(command=LONG, hold=True)
    saved(lab)
    stop_daemon(daemon, how)
    began = time.monotonic()
    cancelled = client.cancel(patience_s=1)
    # patience, and a call that is under way: far less than a call may take by itself
    assert time.monotonic() - began < 20
    assert not cancelled.complete
    assert cancelled.error
    assert "\n" not in cancelled.error
    assert {one.verified for one in cancelled.jobs} == {False}
    client.close()
    (found,) = all_outstanding()
    assert not cancel_outstanding(found, patience_s=1).complete
    assert list(all_outstanding()) == [found]
    back(lab, daemon)
    all_gone(cancel_outstanding(found))
    assert not ours(lab)
    assert not list(all_outstanding())
    assert not list((here / "state/allstop/jobs").iterdir())


@pytest.mark.parametrize(("name", "how"), FAULTS)
def test_a_cancel_goes_on_when_the_controller_is_back(
    lab: Lab, here: Path, name: str, how: str
) -> None:
    daemon = the_daemon(lab, name)
    with Client(lease_s=0) as client:
        running(lab, client)
        saved(lab)
        stop_daemon(daemon, how)
        with meanwhile(lambda: all_gone(client.cancel(patience_s=90))):
            # the wish is written down before the first call
            wait_for(lambda: b"cancel_wanted" in client._keeper.path.read_bytes(), "it has begun")
            wait_for(lambda: how == "killed" or under_way(lab, "squeue"), "it waits for an answer")
            back(lab, daemon)
        assert not ours(lab)


@pytest.mark.parametrize(
    ("name", "how"),
    [*FAULTS[:2], *(pytest.param(*fault, marks=thorough) for fault in FAULTS[2:])],
)
def test_a_submission_without_an_answer_is_known_or_outstanding_never_lost(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.setattr("slurm.submit.SUBMIT_TIMEOUT_S", 3.0)
    monkeypatch.setattr("slurm.submit._FIND_S", 2.0)
    monkeypatch.setattr("slurm.submit.look", partial(look, timeout_s=2.0))
    daemon = the_daemon(lab, name)
    client = Client(lease_s=0)
    stop_daemon(daemon, how)
    with pytest.raises(SubmissionUnknownError) as caught:
        client.submit(command=LONG)
    assert "\n" not in str(caught.value)
    assert client._keeper.book.outstanding
    client.close()
    back(lab, daemon)
    (found,) = all_outstanding()
    all_gone(cancel_outstanding(found))
    assert not ours(lab)
    assert not list(all_outstanding())


def test_a_submission_is_found_when_the_controller_comes_back_in_time(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``sbatch`` has given up, the controller has read its request all the same."""
    monkeypatch.setattr("slurm.submit.SUBMIT_TIMEOUT_S", 5.0)
    with Client(lease_s=0) as client:
        lab.slurmctld.freeze()
        known: list[str] = []
        with meanwhile(lambda: known.append(client.submit(command=LONG))):
            wait_for(lambda: asked(lab, "sbatch"), "the request with the controller")
            wait_for(lambda: not under_way(lab, "sbatch"), "sbatch is given up")
            lab.slurmctld.thaw()
        assert [one.id for one in client.query()] == known
        wait_state(lab, known[0], "RUNNING")


def test_a_controller_that_restarts_in_the_middle_is_waited_for(lab: Lab, here: Path) -> None:
    """How long it takes to be back is the machine's affair: SLURM's own patience is raised."""
    conf = lab.slurm_conf.read_text()
    with Client(lease_s=0) as client:
        running(lab, client)
        saved(lab)
        lab.slurmctld.kill()
        lab.slurm_conf.write_text(f"MessageTimeout=50\n{conf}")
        try:
            with meanwhile(lambda: client.submit(command=LONG)):
                wait_for(lambda: under_way(lab, "sbatch"), "sbatch waits")
                lab.slurmctld.start()
                lab.wait_ready()
        finally:
            lab.slurm_conf.write_text(conf)
        saved(lab)
        lab.slurmctld.kill()
        with meanwhile(lambda: all_gone(client.cancel())):
            lab.slurmctld.start()
    assert not ours(lab)


def test_a_stranger_with_a_reused_id_is_left_alone(lab: Lab, here: Path) -> None:
    """The controller dies before it has saved our job; the next one gets its id."""
    client = Client(lease_s=0)
    wait_for(lambda: _forgets(lab, client), "a reused id", timeout_s=DEADLINE_S)
    lost = client.known()[-1].id
    # killed while it saves, the controller goes back to an older state, and to an earlier number
    while str(stranger := lab.submit("sleep 600")) != lost:
        assert stranger < int(lost)
    cancelled = client.cancel()
    all_gone(cancelled)
    assert {one.id: one.state for one in cancelled.jobs}[lost] == "gone"
    client.close()
    lab.wait_state(stranger, "RUNNING")


def _forgets(lab: Lab, client: Client) -> bool:
    """Whether a job was lost with the controller: it may have been saved in between."""
    job = client.submit(command=LONG, hold=True)
    lab.slurmctld.kill()
    lab.slurmctld.start()
    lab.wait_ready()
    if lab.run("scontrol", "show", "job", job).returncode != 0:
        return True
    lab.run("scancel", job)
    return False


def test_a_job_whose_node_hangs_is_not_called_gone(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(lease_s=0)
    job = running(lab, client, options=["--nodelist=n2"])
    lab.slurmd["n2"].freeze()
    client.cancel(pause=lambda _: lab.states(int(job)) == ["COMPLETING"])
    monkeypatch.setattr("slurm.cancel._SHORTEST_CALL_S", 30.0)  # every look is answered
    cancelled = client.cancel(patience_s=1)
    assert not cancelled.complete
    assert [(one.id, one.state, one.verified) for one in cancelled.jobs] == [
        (job, "completing", False)
    ]
    assert "not gone after 1 s" in (cancelled.error or "")
    client.close()
    (found,) = all_outstanding()
    lab.slurmd["n2"].thaw()
    all_gone(cancel_outstanding(found))
    assert not ours(lab)


def test_patience_that_runs_out_in_the_middle_says_why(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.client.look", partial(look, timeout_s=2.0))
    with Client(lease_s=0) as client:
        running(lab, client)
        lab.slurmctld.freeze()
        assert "squeue did not answer" in (client.cancel(patience_s=1).error or "")
        with pytest.raises(AllstopError):
            client.wait(0.0)
        lab.slurmctld.thaw()


ORPHAN = """
import sys
from slurm import Client
client = Client(lease_s=0)
client.submit(command=["sleep", "600"])
"""


@pytest.mark.parametrize("name", ["slurmctld", "munged"])
def test_an_sbatch_that_outlives_its_dead_caller_leaves_no_job(
    lab: Lab, here: Path, name: str
) -> None:
    """It hangs when its caller is killed; it would submit when what it waits for is back."""
    daemon = the_daemon(lab, name)
    daemon.freeze()
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", ORPHAN], env=os.environ | {"PYTHONPATH": str(root)}
    ) as caller:
        wait_for(lambda: under_way(lab, "sbatch"), "sbatch waits")
        caller.send_signal(signal.SIGKILL)
    (found,) = all_outstanding()
    assert not found.owner.alive
    daemon.thaw()
    all_gone(cancel_outstanding(found))
    wait_for(lambda: not under_way(lab, "sbatch"), "sbatch dead")
    assert not ours(lab)


def test_an_sbatch_that_is_killed_by_a_signal_may_have_left_a_job(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say by the kernel, for lack of memory: it says nothing, and the job is there."""
    (here / "bin").mkdir()
    fake = here / "bin" / "sbatch"
    fake.write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} sbatch "$@" >/dev/null\nkill -KILL $$\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}/bin:{os.environ['PATH']}")
    with Client(lease_s=0) as client:
        job = client.submit(command=LONG)
        wait_state(lab, job, "RUNNING")
    assert not ours(lab)
