"""The end of a run of which only its cluster jobs are left.

Its processes are gone, its results are written, and the warden has no run any more.
So the front answers the run's control socket now: ``stop`` and ``status`` work as
before. Signals and requests from other threads are heard as before, too.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from slurm.watch import JobsView, JobWatch
from supervisor.ipc import messages
from supervisor.ipc.control_socket import Answer, ControlSocket
from supervisor.ipc.stopflag import Level
from supervisor.states import RunStatus

_TICK_S = 0.1


class Desk(NamedTuple):
    """What the front has that the phase needs.

    Attributes
    ----------
    run_id : str
        The run.
    fds : list of int
        Readable when there is something to hear.
    hear : callable
        Hears signals and requests.
    request : callable
        Asks the run to end: level, reason, who.
    standing : callable
        How the run stands.
    tick : callable
        Called about ten times a second, with what is waited for.
    """

    run_id: str
    fds: list[int]
    hear: Callable[[], None]
    request: Callable[[Level, str, str], None]
    standing: Callable[[], messages.Status]
    tick: Callable[[str], None]


def see_jobs_out(jobs: JobWatch, desk: Desk) -> None:
    """Block until there is nothing more to wait for; what asks to end is heard meanwhile."""

    def answer(message: messages.Message) -> messages.Message | None:
        if isinstance(message, messages.AskStatus):
            return desk.standing()
        if isinstance(message, messages.RequestStop):
            level = Level(min(max(message.level, Level.DRAIN), Level.KILL))
            desk.request(level, message.reason, "stop command")
        return None

    with contextlib.closing(_Callers(desk.run_id, answer)) as callers:
        while not jobs.view.over:
            callers.listen()
            callers.serve(select.select([*desk.fds, *callers.fds], [], [], _TICK_S)[0])
            desk.hear()
            desk.tick(standing(jobs.view))
        end = jobs.view
        callers.tell_end("cancelled" if end.cancelling else "", end.unverified)


def standing(jobs: JobsView) -> str:
    """What is waited for, for people; empty while that is not known."""
    alive = [job for job in jobs.jobs if not job.verified]
    if not alive:
        return ""
    states = Counter(job.state for job in alive)
    counted = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    if jobs.cancelling:
        return f"cancelling cluster jobs: {counted}"
    return f"waiting for cluster jobs: {counted} (Ctrl+C cancels them)"


class _Callers:
    """Who has called from outside."""

    def __init__(self, run_id: str, answer: Answer) -> None:
        self._run_id = run_id
        self._answer = answer
        self._door: ControlSocket | None = None
        self._clients: list[socket.socket] = []

    def listen(self) -> None:
        """Listen, unless the socket of a warden that was killed is in the way.

        Then only signals reach us, and the jobs are being cancelled already.
        """
        if self._door is None:
            with contextlib.suppress(OSError):
                self._door = ControlSocket(self._run_id, self._answer)

    @property
    def fds(self) -> list[int]:
        """What becomes readable when somebody calls or speaks."""
        if self._door is None:
            return []
        return [sock.fileno() for sock in (self._door.listener, *self._clients)]

    def serve(self, ready: list[int]) -> None:
        """Take calls, and answer those who spoke."""
        if self._door is None:
            return
        spoke = [client for client in self._clients if client.fileno() in ready]
        if self._door.listener.fileno() in ready:
            self._clients += self._door.accept()
        for client in spoke:
            if not self._door.serve(client):
                self._clients.remove(client)
                client.close()

    def tell_end(self, reason: str, survivors: list[str]) -> None:
        """Tell who is still on the line that the run has ended."""
        if self._door:
            outcome = RunStatus.STOPPED if reason else RunStatus.COMPLETED
            ended = messages.RunEnded(outcome, reason, 0.0, survivors[:100])
            self._door.broadcast(ended)

    def close(self) -> None:
        """Hang up."""
        if self._door:
            self._door.close()
