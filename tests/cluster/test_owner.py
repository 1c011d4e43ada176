"""Who owns outstanding jobs: the process that looks after them now."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm import Client
from slurm.local import LocalTransport
from slurm.reconcile import cancel_outstanding
from slurm.records.outstanding import OutstandingJobs, all_outstanding, this_process
from supervisor.system.process import Identity
from tests.cluster.jobs import LONG, all_gone, left, running
from tests.cluster.lab import Lab

pytestmark = pytest.mark.slurm


def test_a_process_that_takes_jobs_over_owns_them(lab: Lab, here: Path) -> None:
    ledger = here / "ledger"
    first = Client(lease_s=0, ledger=ledger)
    job = running(lab, first)
    first.close()
    (found,) = all_outstanding()
    found._replace(owner=Identity(1, 1, "an earlier boot")).record()
    with Client(lease_s=0, ledger=ledger) as second:
        assert second.token == first.token
        assert [one.id for one in second.query()] == [job]
        second.submit(command=LONG)
        (found,) = all_outstanding()
        assert found.owner == this_process()
        assert found.ledger == ledger
    assert not left(lab)
    assert not list(all_outstanding())


def test_outstanding_jobs_name_their_cluster(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = str(lab.slurm_conf)
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    client = Client(LocalTransport({"SLURM_CONF": conf}), lease_s=0)
    client.submit(command=LONG)
    client.close()
    (found,) = all_outstanding()
    assert found.variables["SLURM_CONF"] == conf
    all_gone(cancel_outstanding(found))
    assert not left(lab)


def test_jobs_whose_ledger_was_deleted_are_cancelled_by_token(lab: Lab, here: Path) -> None:
    (here / "run").mkdir()
    client = Client(lease_s=0, ledger=here / "run" / "ledger")
    running(lab, client)
    client.submit(command=LONG, array=10)
    client.close()
    (here / "run" / "ledger").unlink()
    (here / "run").rmdir()
    (found,) = all_outstanding()
    cancelled = cancel_outstanding(found)
    all_gone(cancelled)
    assert len(cancelled.jobs) == 2
    assert not left(lab)
    assert not list((here / "state/allstop/jobs").iterdir())


def test_jobs_of_a_process_that_died_before_its_first_record(lab: Lab, here: Path) -> None:
    OutstandingJobs(
        "tok", "local", {"SLURM_CONF": str(lab.slurm_conf)}, here / "l", this_process()
    ).record()
    (found,) = all_outstanding()
    all_gone(cancel_outstanding(found))
    assert not list(all_outstanding())


def test_an_unreadable_record_hides_no_other(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        client.submit(command=LONG)
        (found,) = all_outstanding()
        folder = here / "state/allstop/jobs"
        for number, text in enumerate(["", "{}", "[]", '{"token": 1}', '{"owner": 3}']):
            (folder / f"a{number}.json").write_text(text)
        assert list(all_outstanding()) == [found]
