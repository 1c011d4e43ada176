"""The facts that are read back, each as a record of its own; see :mod:`supervisor.records.events`.

Most facts are for people. A later process acts on those here: it finishes a run in the place of
a front that was killed, or shows what happened. A fact that lacks a field, or has one of another
type, was damaged, and says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.records.events import Fact
from supervisor.records.verdict import Jobs, Work
from supervisor.states import RunStatus
from supervisor.system.shape import Count, Seconds, ShapeError, read_as


class ResumeBegun(NamedTuple):
    """A resumed attempt begins; it may die before it has a warden to ask."""


class RunRequested(NamedTuple):
    """The front has asked a warden to run; ``elsewhere``: cluster jobs compute the sweep."""

    elsewhere: bool


class RunStarted(NamedTuple):
    """The warden is about to fork."""

    containment: str
    ram_baseline_bytes: Count


class MemorySampled(NamedTuple):
    """RAM of the run's processes, while they work and after their end."""

    ram_bytes: Count


@dataclass(frozen=True, slots=True)
class VramBaseline:
    """A device before the run used it; see :class:`supervisor.lifecycle.gpu.release.Before`."""

    uuid: str
    index: Count
    name: str
    total_bytes: Count
    minor: Count | None
    used_bytes: Count
    others: dict[int, Count] | None
    why: str


class VramSampled(NamedTuple):
    """The largest readings so far, by UUID."""

    peak_bytes: dict[str, Count]


class Survivors(NamedTuple):
    """Processes that hold VRAM, or that a killed warden has left, and that could not be ended."""

    survivors: list[str]


class StopRequested(NamedTuple):
    """A request to end the run."""

    level: str
    reason: str
    by: str


class RungReached(NamedTuple):
    """A step of the escalation."""

    rung: str
    at_s: Seconds
    acted_on: Count


class CommandEnded(NamedTuple):
    """A supervised command has ended; minus N: of signal N."""

    status: int


class LeftBehind(NamedTuple):
    """Processes that a command left."""

    processes: list[str]


class RunRefused(NamedTuple):
    """The run could not start, or broke."""

    error: str
    usage: bool


class RunEnded(NamedTuple):
    """No process of the run is left but survivors."""

    outcome: RunStatus
    reason: str
    survivors: list[str]
    usage: bool


class Finishing(NamedTuple):
    """The front has observed the end of the work."""

    work: Work
    reason: str
    usage: bool
    survivors: list[str]


class JobsEnded(NamedTuple):
    """The front has seen the run's cluster jobs out."""

    jobs: Jobs
    reason: str
    usage: bool


class PassedOver(NamedTuple):
    """A stronger containment that could not be had."""

    strength: str
    why: str


class CgroupMade(NamedTuple):
    """The run's cgroup."""

    path: Path


KINDS: dict[str, type[Any]] = {
    "front.resume_begun": ResumeBegun,
    "front.run_requested": RunRequested,
    "warden.run_started": RunStarted,
    "front.memory_sampled": MemorySampled,
    "front.memory_settled": MemorySampled,
    "front.vram_baseline": VramBaseline,
    "front.vram_sampled": VramSampled,
    "front.vram_held": Survivors,
    "front.stop_requested": StopRequested,
    "warden.stop_requested": StopRequested,
    "warden.rung_reached": RungReached,
    "warden.command_ended": CommandEnded,
    "warden.left_behind": LeftBehind,
    "warden.run_refused": RunRefused,
    "warden.run_ended": RunEnded,
    "front.finishing": Finishing,
    "front.leftovers_ended": Survivors,
    "front.jobs_ended": JobsEnded,
    "warden.containment_passed_over": PassedOver,
    "warden.cgroup_made": CgroupMade,
}


def known(fact: Fact) -> object:
    """Return a fact as its record; None: it is of no kind that is read back, or is damaged."""
    kind = KINDS.get(fact.name)
    try:
        return None if kind is None else read_as(kind, fact.fields)
    except ShapeError:
        return None
