"""The fixtures that fail on leaks see a leak of every kind, and nothing else."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.leaks import nothing_left_behind
from tests.support.waiting import wait_for


@contextmanager
def process() -> Iterator[None]:
    child = subprocess.Popen(["sleep", "1000"])
    yield
    child.kill()
    child.wait()


@contextmanager
def descriptor() -> Iterator[None]:
    fd = os.memfd_create("left")
    yield
    os.close(fd)


@contextmanager
def name() -> Iterator[None]:
    path = Path("/dev/shm") / f"allstop-test-{secrets.token_hex(8)}"
    path.touch()
    yield
    path.unlink()


@pytest.mark.parametrize(
    ("leak", "what"),
    [
        (process, "children left behind\npid .*sleep"),
        (descriptor, "descriptors left open\n.*memfd:left"),
        (name, "names left in /dev/shm\nallstop-test-"),
    ],
)
def test_a_leak_is_seen(monkeypatch: pytest.MonkeyPatch, leak, what: str) -> None:
    monkeypatch.setattr(leaks, "wait_for", partial(wait_for, timeout_s=0.05))
    held = leak()
    try:
        with pytest.raises(AssertionError, match=what), nothing_left_behind():
            held.__enter__()
    finally:
        held.__exit__(None, None, None)


class Holder:
    """Closes its descriptor only when it is collected, which its reference to itself delays."""

    def __init__(self) -> None:
        self.me = self
        self.fd = os.memfd_create("held")

    def __del__(self) -> None:
        os.close(self.fd)


def test_what_the_collector_closes_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "wait_for", partial(wait_for, timeout_s=0.05))
    with nothing_left_behind():
        Holder()
