from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from slurm.reconcile import cancel_outstanding
from slurm.records.book import Book, Keeper
from slurm.records.outstanding import OutstandingJobs, all_outstanding
from supervisor.errors import ConfigError
from supervisor.records.ledger import Ledger, read_ledger
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


def test_a_ledger_that_others_may_write_is_not_asked_which_jobs_to_cancel(
    own_state: Path, ledger: Path, tmp_path: Path
) -> None:
    found = outstanding_in(ledger, tmp_path / "nowhere")
    with closing(Keeper(ledger)) as keeper:
        keeper.expect(OLD, "local", {}, others=True)
        keeper.write("jobs_settled")  # so says what others may have written
    ledger.chmod(0o666)
    before = ledger.read_bytes()
    assert cancel_outstanding(found).error
    assert ledger.read_bytes() == before
    assert Book.of(read_ledger(found.spare_ledger)).outstanding


def test_of_a_ledger_s_environment_only_the_place_of_the_configuration_is_taken(
    own_state: Path, ledger: Path
) -> None:
    wide = {"SLURM_CONF": "/etc/s", "SLURM_CONF_SERVER": "c:1", "PATH": "/x", "LD_PRELOAD": "/x"}
    with Ledger(ledger) as opened:  # as an earlier version wrote it
        opened.append("jobs_expected", token=OLD, address="local", variables=wide, others=True)
    narrow = {"SLURM_CONF": "/etc/s", "SLURM_CONF_SERVER": "c:1"}
    assert Book.of(read_ledger(ledger)).variables == narrow
    with closing(Keeper(ledger)) as keeper:
        keeper.expect(OLD, "local", wide)
    assert b"/x" not in ledger.read_bytes().splitlines()[-1]


@pytest.mark.parametrize("token", ["../../x", "", "A", "a.b", 7])
def test_a_token_that_is_none_names_no_file(own_state: Path, ledger: Path, token: object) -> None:
    with Ledger(ledger) as opened:
        opened.append("jobs_expected", token=token, address="local", variables={}, others=True)
    with pytest.raises(ConfigError, match="token"):
        Book.of(read_ledger(ledger))
    record = OutstandingJobs(OLD, "local", {}, ledger, Identity(0, 0)).record()
    (file,) = (own_state / "state/allstop/jobs").iterdir()
    assert list(all_outstanding()) == [record]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"token": token}))
    assert not list(all_outstanding())
