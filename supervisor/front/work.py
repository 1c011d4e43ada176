"""The interface between a run and its work: what each may ask of the other.

The front (:mod:`supervisor.front.run`) knows when a run begins and ends; its work
(:mod:`supervisor.front.sweep`, :mod:`supervisor.front.command`,
:mod:`supervisor.front.cluster`) knows what is computed, where, and how that is shown. The
warden has the same division, see :mod:`supervisor.warden.workforce`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from supervisor.front.link import WardenLink
from supervisor.front.notes import Notes
from supervisor.front.progress import Count, Display, Progress
from supervisor.ipc import messages
from supervisor.ipc.stopflag import StopFlag
from supervisor.records.claim import Claim
from supervisor.records.command import AnyPlan
from supervisor.records.events import EventLog
from supervisor.records.report import Gathered, Report

if TYPE_CHECKING:
    from slurm.watch import JobWatch


class PreparedLike(Protocol):
    """A run that was checked and has its directory, whatever the work is."""

    @property
    def plan(self) -> AnyPlan:
        """The plan."""
        ...

    @property
    def run_dir(self) -> Path:
        """Its directory."""
        ...

    @property
    def claim(self) -> Claim:
        """The claim on it."""
        ...

    @property
    def finished(self) -> int:
        """Combinations that earlier attempts have finished."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the report."""
        ...


class Run(Protocol):
    """A run as its work sees it."""

    run_dir: Path
    flag: StopFlag
    link: WardenLink
    events: EventLog
    notes: Notes
    display: Display
    finished: int

    @property
    def elapsed_s(self) -> float:
        """Since the first worker was forked, in s."""
        ...

    def nudge(self) -> None:
        """Wake the run's loop. From any thread."""
        ...

    def advance(self, finished: int) -> None:
        """Note how many combinations are finished, and wake the listeners."""
        ...

    def await_disk(self) -> None:
        """Return when the disk answers; raise :class:`DiskSilentError` if it does not."""
        ...

    def progress(self) -> Progress:
        """The current progress."""
        ...


class Work:
    """A run's work, seen from its front. Methods that a kind of work does not need do nothing.

    Attributes
    ----------
    elsewhere : bool
        Cluster jobs compute it: no process on this machine does, and none is measured.
    jobs : JobWatch or None
        The run's cluster jobs.
    detach : bool
        Whether they are to outlive the run.
    due : float or None
        ``time.monotonic()`` instant at which :meth:`keep_time` wants to be called.
    """

    elsewhere = False
    jobs: JobWatch | None = None
    detach = False
    due: float | None = None

    def hand_over(self) -> None:
        """Hand the work to the warden."""
        raise NotImplementedError

    def count(self) -> Count:
        """How many combinations are done."""
        return Count()

    def status_line(self) -> str:
        """The current progress as one line."""
        raise NotImplementedError

    def begun(self, at: float) -> None:
        """The warden is about to fork, at this ``time.monotonic()`` instant."""

    def keep_time(self) -> None:
        """Do what is due."""

    def hear(self, message: messages.Message) -> None:
        """Handle a message of the warden's that only this kind of work knows."""

    def show_where(self) -> None:
        """Show what every process of the run is doing."""

    def let_go(self) -> None:
        """End background threads: another process finishes the run."""

    def wrap_up(self, *, done: bool) -> None:
        """Write everything but the report to disk; ``done``: all work is done."""

    def gather(self) -> Gathered:
        """Compact the results."""
        return Gathered()

    def complete(self, report: Report) -> None:
        """Remove what this kind of work no longer needs, before the report is written."""

    @property
    def command_status(self) -> int | None:
        """Exit status of a supervised command."""
        return None

    def close(self) -> None:
        """Release all resources."""
