"""A front as the end of its run sees it: what is read, and what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from supervisor.front.inbox import Inbox
from supervisor.front.link import WardenLink
from supervisor.front.memory import MemoryWatch
from supervisor.front.notes import Notes
from supervisor.front.phase import Phase
from supervisor.front.progress import Display, Progress
from supervisor.front.vram import VramWatch
from supervisor.front.work import Work
from supervisor.ipc.stopflag import Level
from supervisor.records.command import AnyPlan
from supervisor.records.events import EventLog
from supervisor.records.stop_record import StopRecord


class Host(Protocol):
    """The front of a run that is ending, see :class:`supervisor.front.run.Front`."""

    plan: AnyPlan
    run_dir: Path
    link: WardenLink
    inbox: Inbox
    events: EventLog
    notes: Notes
    memory: MemoryWatch
    vram: VramWatch
    display: Display
    work: Work
    phase: Phase
    asked: StopRecord
    asked_at: float
    handed_over: bool
    keep_warden: bool
    left_to: str

    @property
    def began(self) -> float:
        """``time.monotonic()`` instant of the first fork."""
        ...

    def progress(self) -> Progress:
        """How the run is doing now."""
        ...

    def request(self, level: Level, reason: str = "", by: str = "python") -> None:
        """Ask the run to end."""
        ...

    def await_disk(self) -> None:
        """Return when the disk answers; raise :class:`DiskSilentError` if it does not."""
        ...

    def hear_requests(self) -> None:
        """Act on the signals and requests that have arrived."""
        ...
