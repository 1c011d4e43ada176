"""When a ledger's jobs are outstanding: from the first intent until all were seen gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm.records.book import Book, Keeper
from slurm.records.states import JobState
from slurm.records.tokens import (
    bears,
    check_token,
    job_name,
    new_token,
    number_in_name,
    token_variables,
)
from supervisor.errors import ConfigError
from supervisor.records.ledger import LedgerWriteError, Record, read_ledger

OLD = Path(__file__).parents[1] / "support" / "ledger-v1"

EXPECTED = ("jobs_expected", {"token": "tok", "address": "local", "variables": {}, "others": False})
INTENDED = ("submit_intended", {"number": 1, "name": "n"})
SUBMITTED = ("submitted", {"number": 1, "job_id": "7"})
REFUSED = ("submit_refused", {"number": 1, "said": "no"})
RUNNING = ("jobs_seen", {"jobs": [["7", "running", "1000"]]})
ENDED = ("jobs_seen", {"jobs": [["7", "cancelled", "1000"]]})
WANTED = ("cancel_wanted", {"ids": []})
SETTLED = ("jobs_settled", {})
DETACHED = ("jobs_detached", {})
OTHERS = (EXPECTED[0], {**EXPECTED[1], "others": True})


def book(*records: tuple[str, dict]) -> Book:
    return Book.of(Record(kind, float(at), fields) for at, (kind, fields) in enumerate(records))


@pytest.mark.parametrize(
    ("records", "outstanding"),
    [
        ([], False),
        ([EXPECTED], False),
        ([OTHERS], True),
        ([EXPECTED, INTENDED], True),
        ([EXPECTED, INTENDED, REFUSED], False),
        ([EXPECTED, INTENDED, SUBMITTED], True),
        ([EXPECTED, INTENDED, SUBMITTED, RUNNING], True),
        ([EXPECTED, INTENDED, SUBMITTED, ENDED], True),  # a requeue may revive it: look
        ([EXPECTED, INTENDED, SUBMITTED, WANTED], True),
        ([EXPECTED, INTENDED, SUBMITTED, WANTED, SETTLED], False),
        ([EXPECTED, INTENDED, SETTLED], False),
        ([EXPECTED, INTENDED, SETTLED, EXPECTED], False),
        ([EXPECTED, INTENDED, SETTLED, EXPECTED, ("submit_intended", {"number": 2})], True),
        ([EXPECTED, INTENDED, SUBMITTED, DETACHED], False),
        ([OTHERS, SETTLED], False),
        ([("who_knows", {}), EXPECTED, INTENDED], True),
    ],
)
def test_jobs_are_outstanding_until_seen_gone(records: list, outstanding: bool) -> None:
    assert book(*records).outstanding == outstanding


def test_a_submission_is_open_until_its_job_or_its_refusal_is_known() -> None:
    assert [one.number for one in book(EXPECTED, INTENDED).open] == [1]
    assert not book(EXPECTED, INTENDED, SUBMITTED).open
    assert not book(EXPECTED, INTENDED, REFUSED).open
    assert not book(EXPECTED, INTENDED, SETTLED).open


def test_a_state_that_a_later_version_knows_counts_as_alive() -> None:
    it = book(EXPECTED, INTENDED, SUBMITTED, ("jobs_seen", {"jobs": [["7", "pondering", "1"]]}))
    assert it.states == {"7": JobState.UNKNOWN}
    assert it.alive == ["7"]


def test_only_what_others_have_registered_without_a_time_is_unproven() -> None:
    shim = ("submitted", {"number": "a1", "job_id": "8"})
    assert book(OTHERS, INTENDED, SUBMITTED, shim).unproven == {"8"}
    timed = ("submitted", {"number": "a1", "job_id": "8", "submitted_at": "1000"})
    assert book(OTHERS, timed).unproven == set()
    assert book(OTHERS, timed).registered == {"8"}


def test_an_old_ledger_is_still_readable() -> None:
    records = read_ledger(OLD)
    it = Book.of(records)
    assert it.token == "allstop-20260301-120000-0a1b2c3d"
    assert (it.address, it.variables) == ("ssh:cluster", {"SLURM_CONF": "/etc/slurm.conf"})
    assert not it.others
    assert it.states == {"41": JobState.COMPLETED, "42": JobState.RUNNING}
    assert it.submitted_at == {"41": "1772362801", "42": "1772362802"}
    assert not it.outstanding
    before = Book.of(records[:-1])
    assert before.outstanding
    assert before.wanted
    assert [one.number for one in before.open] == [2, 4]


def test_a_record_that_cannot_be_written_is_remembered_or_refused(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "ledger")
    keeper.expect("tok", "local", {})
    keeper._ledger.close()  # as a disk that takes nothing any more
    with pytest.raises(LedgerWriteError):
        keeper.write("submit_intended", number=1)
    assert not keeper.book.submissions
    keeper.remark("jobs_seen", jobs=[("7", "running", "1000")])
    keeper.catch_up()
    assert keeper.book.alive == ["7"]


def test_records_of_another_process_are_read(tmp_path: Path) -> None:
    keeper, other = Keeper(tmp_path / "ledger"), Keeper(tmp_path / "ledger")
    keeper.expect("tok", "local", {})
    assert not other.book.token
    other.catch_up()
    assert other.book == keeper.book
    keeper.close()
    other.close()


def test_a_token_is_new_each_time_and_survives_what_slurm_does_to_it() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert token == token.lower() == check_token(token)
    assert set(token_variables("t")) == {"SBATCH_WCKEY", "SALLOC_WCKEY", "SLURM_WCKEY"}


@pytest.mark.parametrize(
    "token", ["", "A", "a.b", "../a", "a b", "a\n", "é", "-a", "a" * 101, "a|"]
)
def test_an_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="token: "):
        check_token(token)


@pytest.mark.parametrize("name", ["", "a", "a.b", "x.tok.1", "é\n"])
def test_a_name_shows_its_submission(name: str) -> None:
    assert number_in_name(job_name(name, "tok", 12), "tok") == 12


@pytest.mark.parametrize(
    ("wckey", "name", "ours"),
    [
        ("tok", "anything", True), ("", "x.tok.1", True), ("(null)", "x.tok.1", True),
        ("tok2", "x", False), ("to", "x", False), ("", "tok.1", False), ("", "xtok.1", False),
        ("", "x.tok.", False), ("", "x.tok.1.y", False), ("", "x.tok.-1", False), ("", "", False),
    ],
)  # fmt: skip
def test_which_jobs_have_a_token(wckey: str, name: str, ours: bool) -> None:
    assert bears("tok", wckey=wckey, name=name) == ours


def test_an_empty_token_matches_no_job() -> None:
    assert not bears("", wckey="", name="")
    assert not bears("", wckey="", name="x..1")
