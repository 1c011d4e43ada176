"""What a front reads of its jobs while a thread talks to the cluster."""

from __future__ import annotations

import dataclasses
import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slurm.cancel import Cancelled, JobOutcome
from slurm.errors import SlurmError
from slurm.watch import JobsView, JobWatch, Phase
from supervisor.errors import AllstopError, ConfigError
from supervisor.records.ledger import LedgerWriteError
from tests.support.waiting import DEADLINE_S

FINAL = {
    Phase.ENDED,
    Phase.DETACHED,
    Phase.CANCELLED,
    Phase.ABANDONED,
    Phase.REFUSED,
    Phase.LOST,
}


def job(number: int, state: str) -> JobOutcome:
    ended = state not in ("running", "pending", "completing", "unknown")
    return JobOutcome(str(number), "token", state, ended)


class FakeClient:
    """A cluster of which a test says what it shows; every call can be made to hang or to fail."""

    token = "token"
    settle_s = 0.0
    submitted = True

    def __init__(self, *looks: list[JobOutcome] | Exception) -> None:
        self.looks = list(looks)
        self.outstanding = True
        self.calls: list[str] = []
        self.cancelled = Cancelled([job(1, "cancelled")], None, 1)
        self.cancel_error: Exception | None = None
        self.gate: threading.Event | None = None
        self.asked = threading.Event()

    def query(self) -> list[JobOutcome]:
        self.calls.append("query")
        self._hang()
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        return look

    def known(self) -> list[JobOutcome]:
        return [job(1, "unknown")]

    def cancel(self, *, pause: Callable[[float], bool], quiet: Callable[[], bool]) -> Cancelled:
        self.calls.append("cancel")
        self._hang()
        if self.cancel_error:
            raise self.cancel_error
        while not quiet():
            if pause(DEADLINE_S):
                break
        self.outstanding = not self.cancelled.complete
        return self.cancelled

    def settle(self) -> None:
        self.outstanding = False

    def detach(self) -> None:
        self.calls.append("detach")
        self.outstanding = False

    def disown(self) -> None:
        self.calls.append("disown")

    def close(self) -> None:
        self.calls.append("close")

    def _hang(self) -> None:
        self.asked.set()
        if self.gate:
            assert self.gate.wait(DEADLINE_S)


class Watched:
    """A watch, and the news by which a front would be woken."""

    def __init__(self, client: FakeClient, **calls: Any) -> None:
        self.news = threading.Semaphore(0)
        self.watch = JobWatch(client, self.news.release, **calls)  # type: ignore[arg-type]

    def end(self) -> JobsView:
        """Wait until there is nothing more to wait for."""
        while not self.watch.view.over:
            assert self.news.acquire(timeout=DEADLINE_S), self.watch.view
        return self.watch.view


@contextmanager
def hanging(client: FakeClient) -> Iterator[None]:
    """Have calls to the cluster hang meanwhile."""
    client.gate = threading.Event()
    try:
        yield
    finally:
        client.gate.set()


def test_a_view_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        JobWatch(FakeClient(), lambda: None).view.phase = Phase.ENDED  # type: ignore[arg-type,misc]


@pytest.mark.parametrize("phase", Phase)
def test_which_phases_are_final(phase: Phase) -> None:
    assert JobsView(phase).over == (phase in FINAL)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    ("state", "hit"), [("running", True), ("cancelled", True), ("completed", False)]
)
def test_only_a_cancel_cuts_jobs_short(phase: Phase, state: str, hit: bool) -> None:
    cancels = phase in (Phase.CANCELLING, Phase.CANCELLED, Phase.ABANDONED)
    assert JobsView(phase, jobs=(job(1, state),)).cut_short == (cancels and hit)


def test_what_was_not_seen_gone_is_named_while_it_is_outstanding() -> None:
    jobs = (job(1, "running"), job(2, "completed"), JobOutcome(None, "token", "unknown", False))
    named = ["job 1, state running", "job (id unknown), state unknown"]
    assert JobsView(Phase.CANCELLED, jobs, outstanding=True).unverified == named
    assert JobsView(Phase.DETACHED, jobs, outstanding=False).unverified == []


def test_nothing_is_asked_for_before_the_front_wants_something() -> None:
    client = FakeClient([job(1, "running")])
    watch = JobWatch(client, lambda: None)  # type: ignore[arg-type]
    assert watch.view == JobsView(Phase.STANDBY, outstanding=True)
    assert client.calls == []


def test_jobs_that_cannot_be_disowned_are_let_go_all_the_same() -> None:
    class FullHome(FakeClient):
        def disown(self) -> None:
            raise LedgerWriteError(Path("record"), OSError(errno.ENOSPC, "full"))

    client = FullHome()
    JobWatch(client, lambda: None).close()  # type: ignore[arg-type]
    assert client.calls == ["close"]


def test_jobs_are_watched_to_their_own_end() -> None:
    client = FakeClient(
        [job(1, "running"), job(2, "pending"), job(3, "failed")],
        [job(1, "completed"), job(2, "timeout"), job(3, "failed")],
    )
    watched = Watched(client)
    with hanging(client):
        watched.watch.wait_for_end()
        assert watched.watch.view.phase is Phase.WATCHING
    end = watched.end()
    assert end.phase is Phase.ENDED
    assert end.failed == ("job 2 timeout",)  # job 3 had ended before it was waited for
    assert (end.error, end.unverified, end.cancelling) == (None, [], False)


def test_no_look_is_the_last_before_the_submitters_have_ended() -> None:
    """A cancel that has found nothing goes on until no process is left that might submit."""
    client = FakeClient([])
    watched = Watched(client)
    watched.watch.cancel()
    assert client.asked.wait(DEADLINE_S)
    assert watched.watch.view.phase is Phase.CANCELLING
    watched.watch.quiet()
    assert watched.end().phase is Phase.CANCELLED


def test_a_cancel_interrupts_the_pause_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("_FIRST_LOOK_S", "_LONGEST_LOOK_S"):
        monkeypatch.setattr(f"slurm.watch.{pause}", 3 * DEADLINE_S)
    client = FakeClient([job(1, "running")])
    watched = Watched(client)
    watched.watch.wait_for_end()
    for _ in range(2):  # what was asked for before the first pause ends it, but not the second
        assert watched.news.acquire(timeout=DEADLINE_S)
    watched.watch.cancel()
    end = watched.end()
    assert (end.phase, end.cut_short, end.unverified) == (Phase.CANCELLED, True, [])
    assert client.calls.count("cancel") == 1


def test_a_cancel_before_the_first_submission_submits_nothing() -> None:
    client = FakeClient([job(1, "running")])
    submitted: list[Any] = []
    watched = Watched(client, begin=submitted.append)
    watched.watch.quiet()
    watched.watch.cancel()
    watched.watch.wait_for_end()  # a weaker wish does not replace a stronger one
    assert watched.end().phase is Phase.CANCELLED
    assert submitted == []


def test_a_cancel_that_comes_while_jobs_are_submitted_cancels_them() -> None:
    client = FakeClient([job(1, "running")])
    begun, go_on = threading.Event(), threading.Event()

    def begin(_client: object) -> None:
        begun.set()
        assert go_on.wait(DEADLINE_S)

    watched = Watched(client, begin=begin)
    watched.watch.quiet()
    watched.watch.detach()
    assert begun.wait(DEADLINE_S)
    watched.watch.cancel()
    go_on.set()
    assert watched.end().phase is Phase.CANCELLED
    assert client.calls == ["cancel"]


def test_what_a_cancel_leaves_is_named() -> None:
    client = FakeClient([])
    client.cancelled = Cancelled([job(1, "running")], "not gone after 60 s", 9)
    watched = Watched(client)
    watched.watch.quiet()
    watched.watch.cancel()
    end = watched.end()
    assert (end.phase, end.error) == (Phase.CANCELLED, "not gone after 60 s")
    assert end.unverified == ["job 1, state running"]


def test_detached_jobs_live_on_and_are_not_complained_of() -> None:
    client = FakeClient([job(1, "running")])
    watched = Watched(client)
    watched.watch.detach()
    end = watched.end()
    assert (end.phase, end.jobs, end.unverified) == (Phase.DETACHED, (job(1, "running"),), [])
    assert client.calls == ["query", "detach"]


def test_a_silent_controller_does_not_keep_jobs_from_being_detached() -> None:
    client = FakeClient(SlurmError("lab", "squeue", 1, "timed out", transient=True))
    watched = Watched(client)
    watched.watch.detach()
    end = watched.end()
    assert end.phase is Phase.DETACHED
    assert end.error and "timed out" in end.error


def test_a_cancel_that_hangs_can_be_abandoned_at_once() -> None:
    client = FakeClient([])
    watched = Watched(client)
    with hanging(client):
        watched.watch.cancel()
        assert client.asked.wait(DEADLINE_S)
        watched.watch.abandon()
        view = watched.watch.view
        assert (view.phase, view.over, view.cancelling) == (Phase.ABANDONED, True, True)
        assert view.error == "given up before they were seen gone"
        watched.watch.cancel()
        assert watched.watch.view.phase is Phase.ABANDONED
    assert watched.end().over


def test_why_nothing_could_be_submitted() -> None:
    refusal = ConfigError("there is no partition gpu", key="partition")

    def begin(_client: object) -> None:
        raise refusal

    client = FakeClient([])
    client.cancelled = Cancelled([], None, 0)
    watched = Watched(client, begin=begin)
    watched.watch.wait_for_end()
    end = watched.end()
    assert (end.phase, end.refused) == (Phase.REFUSED, refusal)
    assert client.calls == ["cancel"]  # a part of it may have been submitted


@pytest.mark.parametrize(
    "error", [SlurmError("lab", "squeue", 1, "invalid user", transient=False), OSError(5, "disk")]
)
def test_jobs_that_cannot_be_watched_are_outstanding(error: AllstopError | OSError) -> None:
    client = FakeClient([job(1, "running")], error)
    client.cancelled = Cancelled([job(1, "running")], None, 0)
    watched = Watched(client)
    watched.watch.wait_for_end()
    end = watched.end()
    assert (end.phase, end.error) == (Phase.LOST, str(error))
    assert end.unverified == ["job 1, state running"]
    assert ("cancel" in client.calls) == isinstance(error, OSError)


def test_a_controller_that_is_away_for_a_while_is_waited_for() -> None:
    away = SlurmError("lab", "squeue", 1, "timed out", transient=True)
    watched = Watched(FakeClient([job(1, "running")], away, [job(1, "completed")]))
    watched.watch.wait_for_end()
    end = watched.end()
    assert (end.phase, end.error) == (Phase.ENDED, None)


def test_a_disk_that_fails_during_a_cancel_does_not_hide_the_cancel() -> None:
    client = FakeClient([job(1, "running")])
    client.cancel_error = OSError(28, "no space")
    watched = Watched(client)
    threading.excepthook, usual = (lambda _args: None), threading.excepthook
    try:
        watched.watch.quiet()
        watched.watch.cancel()
        assert watched.end().phase is Phase.CANCELLED
        assert watched.watch.view.outstanding
        thread = watched.watch._thread
        assert thread
        thread.join(DEADLINE_S)  # it dies of the second error: nothing is left to tell
    finally:
        threading.excepthook = usual


def test_close_leaves_what_is_outstanding_without_an_owner() -> None:
    client = FakeClient([job(1, "running")])
    watched = Watched(client)
    watched.watch.wait_for_end()
    assert watched.news.acquire(timeout=DEADLINE_S)
    watched.watch.close()
    assert watched.end().phase is Phase.LOST
    assert [call for call in client.calls if call != "query"] == ["disown", "close"]
