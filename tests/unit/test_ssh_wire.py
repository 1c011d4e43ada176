from __future__ import annotations

import socket
import threading

import pytest

from slurm.errors import LinkRefusedError, TransportError
from slurm.ssh import wire
from slurm.ssh.deadline import Deadline
from slurm.ssh.wire import ProxyProcess, Wire, bounded, dial


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(wire, "time", clock)
    return clock


class Stream:
    """Receives nothing and sends nothing."""

    closed = False

    def settimeout(self, seconds: float | None) -> None: ...

    def recv(self, size: int) -> bytes:
        raise TimeoutError

    def send(self, data: bytes) -> int:
        raise TimeoutError

    def close(self) -> None:
        self.closed = True


def look(wire: Wire, clock: Clock, seconds: float) -> None:
    """Let time pass while paramiko reads often."""
    for _ in range(int(seconds)):
        clock.now += 1.0
        with pytest.raises(TimeoutError):
            wire.recv(1)


def test_a_silent_peer_is_given_up(clock: Clock) -> None:
    wire = Wire(Stream(), stall_s=1.0)
    look(wire, clock, 100)  # there is no heartbeat yet
    wire.limit_silence(5.0)
    look(wire, clock, 5)
    clock.now += 1.0
    with pytest.raises(ConnectionAbortedError):
        wire.recv(1)
    assert wire.closed


def test_a_process_that_was_stopped_itself_does_not_see_silence(clock: Clock) -> None:
    wire = Wire(Stream(), stall_s=1.0)
    wire.limit_silence(5.0)
    look(wire, clock, 2)
    clock.now += 1000.0
    with pytest.raises(TimeoutError):
        wire.recv(1)
    assert not wire.closed


def test_a_stall_is_given_up(clock: Clock) -> None:
    wire = Wire(Stream(), stall_s=3.0)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            wire.send(b"x")
        clock.now += 1.0
    with pytest.raises(ConnectionAbortedError):
        wire.send(b"x")
    assert wire.closed


def test_a_call_without_a_time_limit_gets_one() -> None:
    assert bounded(lambda: 7, 10.0) == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 10.0)
    go = threading.Event()
    with pytest.raises(TimeoutError):
        bounded(go.wait, 0.05)
    go.set()


def test_a_name_that_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        def resolve(*_: object, **__: object) -> None:
            raise socket.gaierror(number, "told so")

        monkeypatch.setattr(wire.socket, "getaddrinfo", resolve)

    fail(socket.EAI_NONAME)
    with pytest.raises(LinkRefusedError, match="there is no host h"):
        dial("ssh h", "h", 22, Deadline(5.0), unheard_s=5.0)
    fail(socket.EAI_AGAIN)
    with pytest.raises(TransportError, match="told so"):
        dial("ssh h", "h", 22, Deadline(5.0), unheard_s=5.0)


def test_a_proxy_command_that_ignores_sigterm_is_killed(no_leaks: None) -> None:
    process = ProxyProcess("ssh h", "sh -c 'trap \"\" TERM; echo ready; echo why >&2; sleep 600'")
    assert process.stream.recv(6) == b"ready\n"
    process.close()
