"""A connection that opens no session: the limit is used up, or the server refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

pytest.importorskip("paramiko")

import paramiko

from slurm.ssh import link as link_module
from slurm.ssh.deadline import Deadline
from slurm.ssh.link import Link
from slurm.ssh.wire import LinkLostError


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def refusing(monkeypatch: pytest.MonkeyPatch, clock: Clock, *refusals: Callable[[], None]) -> Link:
    """A link that refuses some sessions, then opens one; not connected to anything."""
    monkeypatch.setattr(link_module, "time", clock)
    link = Link.__new__(Link)
    link._slots, link._taken, link._limit_s, link.suspect = threading.Condition(), 1, 10.0, False
    left = list(refusals)

    def ask(_start: object, _limit_s: float) -> str:
        clock.now += 0.5
        if left:
            left.pop(0)()
            raise paramiko.SSHException("refused")
        return "a session"

    monkeypatch.setattr(link, "_ask", ask)
    return link


def nothing() -> None:
    """Do nothing."""


def test_other_sessions_are_waited_for_and_the_last_may_end_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()

    def ends() -> None:
        link._taken = 1

    link = refusing(monkeypatch, clock, *[nothing] * 20, ends, nothing)
    link._taken = 2
    assert link._open(lambda _: None, Deadline(1000.0)) == "a session"


def test_a_server_that_refuses_the_only_session_refuses_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = refusing(monkeypatch, Clock(), *[nothing] * 20)
    with pytest.raises(LinkLostError) as caught:
        link._open(lambda _: None, Deadline(1000.0))
    assert caught.value.for_good
