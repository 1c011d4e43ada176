"""What a run's work is, and what it may ask of the run: the two sides of one seam.

The front (:mod:`supervisor.front.run`) knows when a run begins and ends; its work
(:mod:`supervisor.front.sweep`, :mod:`supervisor.front.command`,
:mod:`supervisor.front.cluster`) knows what is computed, where, and how that is shown. The
warden has the same seam, see :mod:`supervisor.warden.workforce`.
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
from supervisor.records.report import Gathered, Report

if TYPE_CHECKING:
    from slurm.watch import JobWatch


class PreparedLike(Protocol):
    """A run that was checked and has its directory, whatever the work is."""

    @property
    def plan(self) -> AnyPlan:
        """What was asked for."""
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
        """What the report should mention besides."""
        ...


class Run(Protocol):
    """A run as its work sees it."""

    run_dir: Path
    flag: StopFlag
    link: WardenLink
    notes: Notes
    display: Display
    finished: int

    @property
    def elapsed_s(self) -> float:
        """Since the first worker was forked, in s."""
        ...

    def nudge(self) -> None:
        """Have the run's loop look for news. From any thread."""
        ...

    def advance(self, finished: int) -> None:
        """Note how many combinations are finished, and tell the listeners."""
        ...

    def progress(self) -> Progress:
        """How the run is doing now."""
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
        They are to outlive the run.
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
        """How far it is."""
        return Count()

    def status_line(self) -> str:
        """How the run is doing now, in a line."""
        raise NotImplementedError

    def begun(self, at: float) -> None:
        """The warden is about to fork, at this ``time.monotonic()`` instant."""

    def keep_time(self) -> None:
        """Do what is due."""

    def hear(self, message: messages.Message) -> None:
        """Take in a message of the warden's that only this kind of work knows."""

    def show_where(self) -> None:
        """Show where every process of the run is."""

    def let_go(self) -> None:
        """Another process finishes the run: end what goes on beside the loop."""

    def wrap_up(self, *, done: bool) -> None:
        """Have everything else on disk before the report; ``done``: all work is done."""

    def gather(self) -> Gathered:
        """Put results together."""
        return Gathered()

    def complete(self, report: Report) -> None:
        """Clear away what this kind of work needs no longer, before the report is written."""

    @property
    def command_status(self) -> int | None:
        """Exit status of a supervised command."""
        return None

    def close(self) -> None:
        """Let go of everything."""
