"""Jobs whose owner has fallen silent end themselves; those whose owner speaks do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm import Client
from slurm.batch.job import Job
from slurm.batch.script import Lease
from slurm.errors import TransportError
from slurm.local import LocalTransport
from slurm.reconcile import cancel_outstanding
from slurm.records.outstanding import all_outstanding
from slurm.submit import submit
from supervisor.system.process import Identity
from tests.cluster.jobs import all_gone, deaf, left, ready, running, saved, saver, wait_state
from tests.cluster.lab import Lab
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LEASE_S = 3

OWNER = """
import sys, time
from slurm import Client
client = Client(lease_s=int(sys.argv[1]))
print(client.submit(command=sys.argv[3:], **eval(sys.argv[2])), flush=True)
time.sleep(600)
"""


@contextmanager
def owner(*command: str, **options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has submitted a job with a lease, and the job's id."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", OWNER, str(LEASE_S), repr(options), *command],
        env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def of_job(lab: Lab, job: str) -> list[Identity]:
    """Processes of a job, also those with another parent by now."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = environ.read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_JOB_ID={job}".encode() in words and (
            f"SLURM_CONF={lab.slurm_conf}".encode() in words
        ):
            found.append(Identity.of(int(environ.parent.name)))
    return [identity for identity in found if identity is not None and identity.alive]


def test_a_killed_owner_s_job_is_told_saves_and_ends(lab: Lab, here: Path) -> None:
    with owner(*saver(here / "ready", here / "saved")) as (process, job):
        ready(here / "ready")
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_state(lab, job, "COMPLETED")
        # however late the last renewal was: bash counts whole seconds, so one may lack
        (lease,) = (here / ".allstop/leases").iterdir()
        assert time.time() - lease.stat().st_mtime >= LEASE_S - 1
    assert (here / "saved").exists()
    assert "the lease was not renewed" in (here / f"slurm-{job}.out").read_text()
    wait_for(lambda: not of_job(lab, job), "no process of the job left")


def test_a_frozen_owner_s_job_ends_too(lab: Lab, here: Path) -> None:
    with owner("sleep", "600") as (process, job):
        wait_for(lambda: set(lab.states(int(job))) - {"PENDING"}, "the job's beginning")
        process.send_signal(signal.SIGSTOP)
        wait_state(lab, job, "FAILED")  # of SIGTERM
    (found,) = all_outstanding()
    all_gone(cancel_outstanding(found))
    assert not list((here / ".allstop/leases").iterdir())
    assert not list((here / "state/allstop/jobs").iterdir())


def test_a_job_ends_itself_though_the_controller_is_away(lab: Lab, here: Path) -> None:
    with owner(*saver(here / "ready", here / "saved")) as (process, job):
        ready(here / "ready")
        saved(lab)
        lab.slurmctld.kill()
        process.send_signal(signal.SIGKILL)
        ready(here / "saved")
        wait_for(lambda: not of_job(lab, job), "no process of the job left")
        lab.slurmctld.start()
        lab.wait_ready()


def test_a_job_that_ignores_sigterm_cancels_itself(lab: Lab, here: Path) -> None:
    lease, renewed = here / "lease", here / "renewed"

    def is_ready() -> bool:
        """Renew, until it is deaf."""
        renewed.write_text(str(time.monotonic()))
        renewed.replace(lease)
        return (here / "ready").exists()

    with Client(lease_s=0) as client:
        client._expect(others=False)
        job = submit(
            client._cluster, client._keeper, Job(command=deaf(here / "ready")),
            Lease(str(lease), 3, grace_s=1),
        )  # fmt: skip
        wait_for(is_ready, "a deaf job")
        wait_state(lab, job, "CANCELLED")
        assert client.query()[0].verified


def test_renewing_keeps_a_job_alive(lab: Lab, here: Path) -> None:
    with Client(lease_s=6) as client:
        job = running(lab, client)
        until = time.monotonic() + 6 + 3  # the lease that it began with, and its looks
        wait_for(lambda: client._renewer.renewed_at > until, "renewals for longer than a lease")
        assert lab.states(int(job)) == ["RUNNING"]
    assert not left(lab)
    assert not list((here / ".allstop/leases").iterdir())


def test_a_job_that_waits_for_long_begins_with_a_lease_of_its_own(lab: Lab, here: Path) -> None:
    """It watches from its start on; if no front lives then, it ends after one lease."""
    with owner("sleep", "600", hold=True) as (process, job):
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_state(lab, job, "PENDING")
        lab.run("scontrol", "release", job)
        wait_state(lab, job, "FAILED")
    assert "the lease was not renewed" in (here / f"slurm-{job}.out").read_text()


def test_a_normal_end_leaves_no_watcher_behind(lab: Lab, here: Path) -> None:
    with Client(lease_s=300) as client:
        job = client.submit(command=["true"])
        wait_state(lab, job, "COMPLETED")
        wait_for(lambda: not of_job(lab, job), "no process of the job left", timeout_s=20)


def test_no_lease_no_job(lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that could not be made is not taken for one that is renewed."""
    (here / ".allstop").write_text("in the way")
    with Client(LocalTransport({"HOME": str(here)}), lease_s=LEASE_S) as client:
        for _ in range(2):
            with pytest.raises(Exception, match="sh failed"):
                client.submit(command=["true"])
        assert not client.known()
    assert not left(lab)


def test_a_renewal_that_fails_is_not_the_last(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.lease._RENEWALS", 60)  # far more often than the job would miss
    with Client(lease_s=30) as client:
        job = running(lab, client)
        real = client._cluster.transport.run
        failed: list[int] = []

        def fails_first(*args: object, **options: object) -> object:
            if len(failed) < 2:
                failed.append(1)
                raise TransportError("lost", may_have_run=False)
            return real(*args, **options)

        monkeypatch.setattr(client._cluster.transport, "run", fails_first)
        wait_for(lambda: len(failed) == 2, "two renewals lost")
        before = client._renewer.renewed_at
        wait_for(lambda: client._renewer.renewed_at > before, "renewed again")
        assert lab.states(int(job)) == ["RUNNING"]
