"""Processes of a measurement: watched by pidfd, and forked plainly as the floor."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Self

from bench.harness.errors import NotMeasuredError
from supervisor.system import process

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watch:
    """Pidfds of processes, opened while they are alive: they refer to no later process."""

    def __init__(self, pids: Sequence[int] = ()) -> None:
        self.pids: list[int] = []
        self._pidfds: dict[int, int] = {}
        self.add(pids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pidfd in self._pidfds:
            os.close(pidfd)

    def add(self, pids: Sequence[int]) -> None:
        """Watch more processes."""
        self.pids += pids
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds[os.pidfd_open(pid)] = pid

    def send(self, number: signal.Signals) -> None:
        """Signal all, in the order given."""
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)

    def wait_gone(self, timeout_s: float) -> float:
        """Wait until the last one is dead and its memory released.

        Returns
        -------
        float
            ``time.monotonic()`` just then.

        Raises
        ------
        NotMeasuredError
            If one still lives after ``timeout_s``.
        """
        if living := self.living_after(timeout_s):
            names = ", ".join(f"{pid} ({process.command_name(pid)})" for pid in living)
            raise NotMeasuredError(f"still alive after {timeout_s:g} s: {names}")
        return time.monotonic()

    def living_after(self, timeout_s: float) -> list[int]:
        """Wait until the last one is dead or the time is over; return the pids still alive."""
        deadline = time.monotonic() + timeout_s
        living = dict(self._pidfds)
        poller = select.poll()
        for pidfd in living:
            poller.register(pidfd, select.POLLIN)
        while living:
            left = deadline - time.monotonic()
            for pidfd, _ in poller.poll(max(0.0, left * 1000)):
                poller.unregister(pidfd)
                del living[pidfd]
            if left <= 0:
                break
        return list(living.values())


def fork(body: Callable[[], object]) -> int:
    """Fork a process that runs ``body`` and ends with it, or with its parent."""
    parent = os.getpid()
    # what a handler raises in the interpreter's own hooks of a fork would be lost
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        pid = os.fork()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid == 0:
        code = 1
        try:
            process.die_with_parent(parent)
            body()
            code = 0
        except BaseException:  # noqa: BLE001 - a forked copy must not run our own way out
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


class PlainProcesses:
    """The floor: the same work in processes forked plainly, ended by SIGKILL and wait."""

    def __init__(self, bodies: Sequence[Callable[[], object]]) -> None:
        self._pids = [fork(body) for body in bodies]
        self._watch = Watch(self._pids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.send(signal.SIGKILL)
        self.reap()
        self._watch.__exit__()

    def pids(self) -> list[int]:
        """Pids of the processes that have not been reaped."""
        return list(self._pids)

    @property
    def leaders(self) -> list[int]:
        """The same pids: none is a child of another."""
        return self.pids()

    def kill_and_wait(self) -> float:
        """Return how long it took from the first SIGKILL until the last one was reaped, in s."""
        begun = time.monotonic()
        self._watch.send(signal.SIGKILL)
        self.reap()
        return time.monotonic() - begun

    def reap(self) -> list[int]:
        """Wait for all; return their exit codes."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self._pids]
        self._pids = []
        return codes
