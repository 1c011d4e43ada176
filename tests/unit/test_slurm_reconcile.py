from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from slurm.reconcile import cancel_outstanding
from slurm.records.book import Book, Keeper
from slurm.records.outstanding import OutstandingJobs, all_outstanding
from supervisor.records.ledger import read_ledger
from supervisor.system.process import Identity

OLD, NEW = "allstop-20240229-120000-000000-00000000", "allstop-20240301-120000-111111-11111111"


def outstanding_in(ledger: Path, nowhere: Path) -> OutstandingJobs:
    """Outstanding jobs of a dead process; there is no squeue to look at them with."""
    return OutstandingJobs(OLD, "local", {"PATH": str(nowhere)}, ledger, Identity(0, 0)).record()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "ledger"


def test_the_ledger_of_a_later_run_in_the_same_directory_is_left_alone(
    own_state: Path, ledger: Path, tmp_path: Path
) -> None:
    found = outstanding_in(ledger, tmp_path / "nowhere")
    with closing(Keeper(ledger)) as keeper:
        keeper.expect(NEW, "local", {}, others=True)
    before = ledger.read_bytes()
    assert cancel_outstanding(found).error
    assert ledger.read_bytes() == before
    assert Book.of(read_ledger(found.spare_ledger)).token == OLD
    assert [one.token for one in all_outstanding()] == [OLD]  # still outstanding


def test_jobs_recorded_before_the_first_ledger_record_are_known_by_token(
    own_state: Path, ledger: Path, tmp_path: Path
) -> None:
    found = outstanding_in(ledger, tmp_path / "nowhere")
    assert cancel_outstanding(found).error
    book = Book.of(read_ledger(ledger))
    assert (book.token, book.outstanding) == (OLD, True)
