"""The part of a run in which only its cluster jobs are left.

Its processes are gone, and the warden has no run any more. So the front answers the run's
control socket now: ``stop`` and ``status`` work as before. Signals and requests from other
threads are received as before, too.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import Counter

from slurm.watch import JobsView, JobWatch
from supervisor.errors import ConfigError
from supervisor.front.host import Host
from supervisor.ipc import messages
from supervisor.ipc.control_socket import Answer, ControlSocket
from supervisor.ipc.stopflag import Level
from supervisor.records.verdict import Jobs
from supervisor.states import RunStatus

_TICK_S = 0.1
_CANCEL_S = 90.0
"""A cancel gives up by itself after a minute, unless its thread waits for a disk that is silent."""

HowEnded = tuple[Jobs, str, bool]
"""How the jobs ended, the reason, and whether the user can fix what failed."""


def see_out(front: Host, *, wait: bool) -> HowEnded:
    """Block until there is nothing more to wait for; requests are obeyed meanwhile.

    Parameters
    ----------
    front : Host
        The run's, with :attr:`~supervisor.front.work.Work.jobs`.
    wait : bool
        Let the jobs end by themselves, as long as the warden lives to cancel them should we
        die; otherwise they are cancelled.
    """
    jobs = front.work.jobs
    if jobs is None:
        return Jobs.SETTLED, "", False
    jobs.quiet()
    if front.work.detach:
        jobs.detach()
    elif wait:
        jobs.wait_for_end()
    else:
        jobs.cancel()
    unguarded = _serve(front, jobs, guarded=wait)
    view = jobs.view
    if view.error:
        front.notes.note(view.error)
    return how_ended(view, detached=front.work.detach, unguarded=unguarded)


def how_ended(jobs: JobsView, *, detached: bool, unguarded: str) -> HowEnded:
    """Say how jobs ended that are over.

    Parameters
    ----------
    jobs : JobsView
        What is known of them.
    detached : bool
        They were to outlive the run.
    unguarded : str
        How the warden died while they were awaited; empty: it did not.
    """
    if jobs.refused:
        return Jobs.REFUSED, str(jobs.refused), isinstance(jobs.refused, ConfigError)
    if detached:
        return Jobs.DETACHED, f"{len(jobs.jobs)} cluster job(s) are still running", False
    if unguarded:
        return Jobs.UNGUARDED, unguarded, False
    if jobs.cut_short:
        return Jobs.CUT_SHORT, "", False
    if jobs.failed:
        return Jobs.FAILED, ", ".join(jobs.failed), False
    return Jobs.SETTLED, "", False


def _serve(front: Host, jobs: JobWatch, *, guarded: bool) -> str:
    """Serve callers, signals and requests until the jobs are over.

    Returns
    -------
    str
        How the warden died, if that was while it guarded the jobs.
    """

    def answer(message: messages.Message) -> messages.Message | None:
        if isinstance(message, messages.AskStatus):
            return _status(front)
        if isinstance(message, messages.RequestStop):
            level = Level(min(max(message.level, Level.DRAIN), Level.KILL))
            front.request(level, message.reason, "stop command")
        return None

    unguarded = ""
    with contextlib.closing(_Callers(front.plan.run_id, answer)) as callers:
        while not jobs.view.over:
            callers.listen()
            callers.serve(select.select([*front.inbox.fds, *callers.fds], [], [], _TICK_S)[0])
            front.hear_requests()
            if front.asked and time.monotonic() >= front.asked_at + _CANCEL_S and front.events.late:
                jobs.abandon()
            if guarded and not unguarded and not front.link.usable:
                unguarded = str(front.link.lost(front.run_dir))
                front.notes.note(unguarded)
                jobs.cancel()
            front.display.show(front.progress())
            front.display.say_once(waiting_for(jobs.view))
        ended = jobs.view
        callers.tell_end("cancelled" if ended.cancelling else "", ended.unverified)
    return unguarded


def _status(front: Host) -> messages.Status:
    """How the run is doing, for ``status``."""
    progress = front.progress()
    return messages.Status(
        front.plan.run_id,
        RunStatus.STOPPING if front.asked else RunStatus.RUNNING,
        progress.done,
        progress.total,
        [],
        round(progress.elapsed_s, 3),
    )


def waiting_for(jobs: JobsView) -> str:
    """The jobs still awaited, as text; empty while that is not known."""
    alive = [job for job in jobs.jobs if not job.verified]
    if not alive:
        return ""
    states = Counter(job.state for job in alive)
    counted = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    if jobs.cancelling:
        return f"cancelling cluster jobs: {counted}"
    return f"waiting for cluster jobs: {counted} (Ctrl+C cancels them)"


class _Callers:
    """Connections to the run's control socket."""

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
        """Readable when there is a new connection, or a message on one."""
        if self._door is None:
            return []
        return [sock.fileno() for sock in (self._door.listener, *self._clients)]

    def serve(self, ready: list[int]) -> None:
        """Accept connections, and answer messages."""
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
        """Tell every connection that the run has ended."""
        if self._door:
            outcome = RunStatus.STOPPED if reason else RunStatus.COMPLETED
            self._door.broadcast(messages.RunEnded(outcome, reason, 0.0, survivors[:100]))

    def close(self) -> None:
        """Close the socket."""
        if self._door:
            self._door.close()
