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


def test_who_carries_jobs_on_owns_their_debt(lab: Lab, here: Path) -> None:
    ledger = here / "ledger"
    first = Client(lease_s=0, ledger=ledger)
    job = running(lab, first)
    first.close()
    (ours,) = all_outstanding()
    ours._replace(owner=Identity(1, 1, "an earlier boot")).record()
    with Client(lease_s=0, ledger=ledger) as second:
        assert second.token == first.token
        assert [one.id for one in second.query()] == [job]
        second.submit(command=LONG)
        (ours,) = all_outstanding()
        assert ours.owner == this_process()
        assert ours.ledger == ledger
    assert not left(lab)
    assert not list(all_outstanding())


def test_a_debt_leads_to_the_cluster_that_the_jobs_are_on(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = str(lab.slurm_conf)
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    client = Client(LocalTransport({"SLURM_CONF": conf}), lease_s=0)
    client.submit(command=LONG)
    client.close()
    (ours,) = all_outstanding()
    assert ours.variables["SLURM_CONF"] == conf
    all_gone(cancel_outstanding(ours))
    assert not left(lab)


def test_a_debt_whose_ledger_was_deleted_is_worked_off_by_token(lab: Lab, here: Path) -> None:
    (here / "run").mkdir()
    client = Client(lease_s=0, ledger=here / "run" / "ledger")
    running(lab, client)
    client.submit(command=LONG, array=10)
    client.close()
    (here / "run" / "ledger").unlink()
    (here / "run").rmdir()
    (ours,) = all_outstanding()
    cancelled = cancel_outstanding(ours)
    all_gone(cancelled)
    assert len(cancelled.jobs) == 2
    assert not left(lab)
    assert not list((here / "state/allstop/jobs").iterdir())


def test_a_debt_of_a_process_that_died_before_its_first_record(lab: Lab, here: Path) -> None:
    OutstandingJobs(
        "tok", "local", {"SLURM_CONF": str(lab.slurm_conf)}, here / "l", this_process()
    ).record()
    (ours,) = all_outstanding()
    all_gone(cancel_outstanding(ours))
    assert not list(all_outstanding())


def test_an_unreadable_debt_hides_no_other(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        client.submit(command=LONG)
        (ours,) = all_outstanding()
        folder = here / "state/allstop/jobs"
        for number, text in enumerate(["", "{}", "[]", '{"token": 1}', '{"owner": 3}']):
            (folder / f"a{number}.json").write_text(text)
        assert list(all_outstanding()) == [ours]
