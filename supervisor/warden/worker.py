"""A worker as the warden sees it, and its birth: the fork, and what the child does first."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.records.plan import Plan, Source
from supervisor.warden.workforce import Run
from workers.backend import Backend
from workers.main import Station, run_worker


@dataclass
class Worker:
    """A forked worker as the warden sees it.

    Attributes
    ----------
    slot, serial : int
        Its place, which its successor takes; its own number.
    pid, outside : int
        Its pid here, and as others know it.
    link : socket.socket
        Our end of the line to it.
    device : str
        Its GPU; empty: none was chosen for it.
    forked_at : float
        ``time.monotonic()`` instant of the fork.
    ready : bool
        Whether it has asked for a chunk.
    lost : str or None
        Why it ends: what is wrong with its device.
    left : bool
        Whether its slot is no longer its own: a process can take long to end in a driver whose
        device is lost, and its successor need not wait.
    """

    slot: int
    serial: int
    pid: int
    outside: int
    link: socket.socket
    device: str = ""
    forked_at: float = field(default_factory=time.monotonic)
    ready: bool = False
    lost: str | None = None
    left: bool = False


class Nursery:
    """Forks the workers of a run.

    Parameters
    ----------
    run : Run
        The run they work for.
    plan : Plan
        What is to be computed.
    table : ProgressTable
        Where they count what they have computed.
    """

    def __init__(self, run: Run, plan: Plan, table: ProgressTable) -> None:
        self._run = run
        self._plan = plan
        self._table = table

    def fork(
        self,
        slot: int,
        serial: int,
        device: str,
        backend: Backend,
        others: Iterable[Worker],
    ) -> Worker:
        """Fork a worker; it computes with ``backend``, on ``device`` if that is not empty.

        Raises
        ------
        OSError
            If no process can be forked.
        """
        ours, theirs = messages.pair()
        ours.setblocking(False)  # a child of the worker's may hold its end open: never wait for EOF
        warden_pid, now = os.getpid(), time.monotonic()
        pid = os.fork()
        if pid == 0:
            with _ending():
                self._run.containment.prepare_worker(warden_pid)
                self._leave_warden([ours, *(other.link for other in others)])
                run_worker(self._station(slot, serial, device, theirs), backend)
        theirs.close()
        return Worker(slot, serial, pid, self._run.containment.outside(pid), ours, device, now)

    def _leave_warden(self, links: list[socket.socket]) -> None:
        """In the child: close the warden's sockets, so that an EOF means that the warden died."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._run.leave()
        for link in links:
            link.close()

    def _station(self, slot: int, serial: int, device: str, link: socket.socket) -> Station:
        return Station(
            slot,
            serial,
            self._run.containment.outside(os.getpid()),
            link,
            self._run.flag,
            self._table,
            self._plan.run_id,
            self._run.run_dir,
            "" if self._plan.source is Source.BUILT_IN else self._plan.provenance.cwd,
            device,
            self._plan.worker_vram_bytes,
            self._plan.ranking,
            self._plan.grid.names,
        )


@contextmanager
def _ending() -> Iterator[None]:
    """In the child: end the process, whatever happens.

    Neither ``atexit`` nor a finalizer of the warden's runs in a worker, and nothing of a GPU's
    is freed: the kernel driver does that.
    """
    code = 1
    try:
        yield
        code = 0
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)  # whatever a flush raises: a child must not go on as a second warden
