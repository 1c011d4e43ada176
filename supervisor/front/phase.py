"""The phases of a run as its front sees them; each has its own data.

::

    Starting ── the warden forks ──> Running ── a stop is requested ──> Stopping
        │                               │                                  │
        └──────── refused, stopped, or the warden died ──> Ended <─────────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from supervisor.errors import AllstopError, ConfigError, WardenLostError
from supervisor.ipc import messages
from supervisor.records.story import ended_as
from supervisor.records.verdict import Work
from supervisor.states import RunStatus


@dataclass(frozen=True, slots=True)
class Started:
    """What the warden said when it was about to fork.

    Attributes
    ----------
    at : float
        ``time.monotonic()`` instant, in s.
    containment : str
        The one in use.
    ram_baseline_bytes : int
        What the run's processes held then.
    """

    at: float
    containment: str
    ram_baseline_bytes: int


@dataclass(frozen=True, slots=True)
class End:
    """How the work ended.

    Attributes
    ----------
    work, reason, usage
        See :class:`~supervisor.records.verdict.Observed`.
    survivors : tuple of str
        What the warden could not end.
    elapsed_s : float
        How long the warden took to end the work, in s.
    by_force : bool
        The warden is dead, or has to be killed; the front ends the processes that it left.
    """

    work: Work
    reason: str = ""
    usage: bool = False
    survivors: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    by_force: bool = False

    @classmethod
    def told(cls, ended: messages.RunEnded, *, elsewhere: bool) -> Self:
        """The end that the warden has reported."""
        return cls(
            ended_as(RunStatus(ended.outcome), elsewhere=elsewhere),
            ended.reason,
            ended.usage,
            tuple(ended.survivors),
            ended.elapsed_s,
        )

    @classmethod
    def of(cls, error: AllstopError) -> Self:
        """The end of a run that could not begin or go on because of an error."""
        return cls(
            Work.LOST if isinstance(error, WardenLostError) else Work.FAILED,
            str(error),
            isinstance(error, ConfigError),
            by_force=True,
        )


@dataclass(frozen=True, slots=True)
class Starting:
    """The warden prepares; no worker exists yet."""

    started: None = None


@dataclass(frozen=True, slots=True)
class Running:
    """Workers compute."""

    started: Started


@dataclass(frozen=True, slots=True)
class Stopping:
    """The run was asked to end while it ran.

    Attributes
    ----------
    give_up_at : float or None
        ``time.monotonic()`` instant at which a warden that does not answer is killed; None: a
        drain, which takes as long as the current chunks.
    """

    started: Started
    give_up_at: float | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The work has ended; only the survivors that its end names are left."""

    started: Started | None
    end: End


Phase = Starting | Running | Stopping | Ended
