"""The scribe: facts are written while the disk answers, and nobody waits when it does not."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.front.scribe import Scribe
from supervisor.records.events import EventLog, read_events
from supervisor.records.ledger import Ledger, LedgerWriteError, read_ledger
from supervisor.records.scribe_line import PATIENCE_S, ScribeLine, await_written
from supervisor.system import process
from tests.support.waiting import wait_for

LONG_S = 20 * PATIENCE_S
"""What a sender takes that waits for nothing, on a busy machine, and not if it waits for all."""


class Pair:
    """A scribe, and logs of its two senders."""

    def __init__(self, run_dir: Path) -> None:
        theirs, line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.run_dir = run_dir
        self.scribe = Scribe(theirs)
        self.pid = self.scribe.pid
        assert self.scribe.line is not None
        self.line, self.warden_line = self.scribe.line, ScribeLine(line)
        wait_for(lambda: self.line.answers(1.0), "the scribe to begin")
        self.front = EventLog(run_dir, "front", scribe=self.line)
        self.warden = EventLog(run_dir, "warden", scribe=self.warden_line)

    def suspend(self) -> None:
        """Have the disk answer no more: to the senders it is the same."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_for(lambda: process.state_letter(self.pid) == "T", "its suspension")

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def names(self) -> list[str]:
        return [fact.name for fact in read_events(self.run_dir)]

    def close(self) -> None:
        for log in (self.front, self.warden):
            log.close()
        self.warden_line.close()
        self.scribe.close()


@pytest.fixture
def pair(tmp_path: Path, no_leaks: None) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    if process.state_letter(pair.pid) == "T":
        pair.resume()
    pair.close()


def test_a_fact_is_written_when_emit_returns(pair: Pair) -> None:
    for n in range(20):
        log = (pair.front, pair.warden)[n % 2]
        log.emit("counted", n=n)
        assert [fact.fields["n"] for fact in read_events(pair.run_dir)] == list(range(n + 1))


@pytest.mark.parametrize("alone", [False, True])
def test_half_a_line_on_a_full_disk_does_not_take_the_next_one_with_it(
    pair: Pair, *, alone: bool
) -> None:
    log = EventLog(pair.run_dir, "front") if alone else pair.front
    log.emit("first")
    writer = os.getpid() if alone else pair.pid
    soft, hard = resource.prlimit(writer, resource.RLIMIT_FSIZE)
    size = (pair.run_dir / "events.jsonl").stat().st_size
    resource.prlimit(writer, resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        log.emit("torn")
        log.emit("refused")
    finally:
        resource.prlimit(writer, resource.RLIMIT_FSIZE, (soft, hard))
    log.emit("next")
    assert pair.names() == ["front.first", "front.next"]
    assert log.dropped == 2
    log.close()


def test_nobody_waits_for_a_disk_that_does_not_answer(pair: Pair) -> None:
    pair.suspend()
    began = time.monotonic()
    for n in range(50):
        pair.front.emit("happened", n=n)
        pair.warden.emit("happened", n=n)
    assert time.monotonic() - began < LONG_S
    assert pair.front.late
    assert not pair.front.answers(0.0)
    pair.resume()
    assert pair.front.answers(10.0)
    assert not pair.front.late
    facts = list(read_events(pair.run_dir))
    assert [fact.fields["n"] for fact in facts] == [n for n in range(50) for _ in "ab"]
    assert [fact.at for fact in facts] == sorted(fact.at for fact in facts)


def test_samples_do_not_take_the_place_of_what_matters(pair: Pair) -> None:
    pair.suspend()
    pair.front.emit("begun")
    for _ in range(5000):
        pair.front.emit("memory_sampled", ram_bytes=1)
    pair.front.emit("ended")
    pair.resume()
    assert pair.front.answers(10.0)
    assert pair.names() == ["front.begun", "front.ended"]
    pair.suspend()
    pair.front.emit("begun")
    assert pair.front.late
    pair.resume()
    wait_for(lambda: not pair.front.late, "an answer to be seen, though nothing is sent")
    assert pair.front.dropped == 5000


def test_what_is_too_much_is_dropped_and_counted(pair: Pair) -> None:
    pair.suspend()
    for _ in range(3000):
        pair.front.emit("happened", text=100 * "x")
    assert pair.front.dropped > 0
    pair.resume()
    assert pair.front.answers(30.0)
    assert len(pair.names()) + pair.front.dropped == 3000


def test_a_hurried_sender_waits_for_nothing_and_loses_nothing(pair: Pair) -> None:
    pair.warden.hurried = True
    for n in range(30):
        pair.warden.emit("happened", n=n)
    pair.warden.hurried = False
    pair.warden.emit("run_ended", n=30)
    assert [fact.fields["n"] for fact in read_events(pair.run_dir)] == list(range(31))
    assert not pair.warden.late


@pytest.mark.parametrize("at_once", [True, False])
def test_without_its_scribe_a_sender_writes_itself(pair: Pair, at_once: bool) -> None:
    pair.front.emit("first")
    if at_once:  # some are on their way when it is killed
        pair.front.hurried = True
        pair.suspend()
        for n in range(3):
            pair.front.emit("on_its_way", n=n)
    os.kill(pair.pid, signal.SIGKILL)
    wait_for(lambda: process.state_letter(pair.pid) in ("Z", None), "its death")
    pair.front.emit("last")
    expected = ["front.first", *(["front.on_its_way"] * 3 if at_once else []), "front.last"]
    assert pair.names() == expected
    assert pair.front.dropped == 0


def test_it_serves_the_warden_of_a_front_that_hung_up_and_no_longer(pair: Pair) -> None:
    pair.line.hang_up()
    pair.front.emit("unheard")
    pair.warden.emit("happened")
    assert pair.names() == ["warden.happened"]
    fd = os.dup(pair.warden_line.fileno())
    pair.suspend()
    pair.warden.hurried = True
    pair.warden.emit("run_ended")
    pair.warden_line.hang_up()
    waiting = threading.Thread(target=await_written, args=(fd,))
    waiting.start()
    assert waiting.is_alive()
    pair.resume()
    waiting.join(30.0)
    assert pair.names() == ["warden.happened", "warden.run_ended"]
    wait_for(lambda: process.state_letter(pair.pid) in ("Z", None), "its end")


def test_a_cancel_does_not_wait_for_its_note(pair: Pair) -> None:
    ledger = Ledger(pair.run_dir / "ledger", pair.line)
    assert ledger.note("cancel_wanted", ids=[]) > 0
    pair.suspend()
    began = time.monotonic()
    with pytest.raises(LedgerWriteError, match="does not answer"):
        ledger.note("jobs_seen", jobs=[])
    with pytest.raises(LedgerWriteError):
        ledger.note("jobs_seen", jobs=[])
    assert time.monotonic() - began < LONG_S
    pair.resume()
    assert pair.front.answers(10.0)
    assert [record.kind for record in read_ledger(ledger.path)] == [
        "cancel_wanted", "jobs_seen", "jobs_seen",
    ]  # fmt: skip
    ledger.close()


def test_a_pipe_in_the_place_of_the_facts_takes_none(tmp_path: Path, no_leaks: None) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    pair = Pair(tmp_path)
    pair.front.emit("happened")
    assert pair.front.dropped == 2  # the opening counts
    pair.close()


def test_a_torn_line_is_ended_first(pair: Pair) -> None:
    (pair.run_dir / "events.jsonl").write_text('{"event": "front.torn')
    log = EventLog(pair.run_dir, "front", scribe=pair.line)
    log.emit("whole")
    lines = (pair.run_dir / "events.jsonl").read_text().splitlines()
    assert lines[0] == '{"event": "front.torn'
    assert json.loads(lines[1])["event"] == "front.whole"
