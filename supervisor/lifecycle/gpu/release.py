"""Whether the VRAM that a run used is back, and who holds the rest: decided from readings alone.

A device's used bytes also move when other processes allocate. So it is back when no process of the
run is listed on it, and it has no more bytes in use than before, give or take :data:`SLACK_BYTES`
and what other processes have taken or given back since. Where the driver does not tell the bytes of
each process, that cannot be known, and is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from supervisor.system.gpu_files import Holder
from supervisor.system.gpus import Gpu, ProcessList, Source

SLACK_BYTES = 32 * 2**20
"""How close to its baseline a device must come to count as back. An estimate: the figure of an
idle H200 did not move within 2 s, that of others was not measured."""

NEWCOMER_BYTES = 64 * 2**20
"""What the driver keeps for a process besides the bytes that it lists for it: allowed for each
process of others that has come since. An estimate, too."""

_MB = 2**20


class Whose(StrEnum):
    """To whom a pid that the driver lists belongs."""

    OURS = "ours"
    """To the run: seen as its process, or with its cookie."""
    FOREIGN = "foreign"
    """To a process that is none of the run's."""
    NAMELESS = "nameless"
    """To no process here: dead, of another PID namespace, or a sandbox's."""


@dataclass(frozen=True, slots=True)
class Before:
    """A device before the run's first process.

    Attributes
    ----------
    gpu : Gpu
        The device.
    used_bytes : int
        In use then.
    others : dict or None
        By pid, what each process held; None: not known.
    why : str
        Why not; empty: it is.
    """

    gpu: Gpu
    used_bytes: int
    others: dict[int, int] | None = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Now:
    """The same device later.

    Attributes
    ----------
    used_bytes : int
        In use now.
    processes : ProcessList
        As the driver lists them.
    whose : dict
        By listed pid, whose it is.
    """

    used_bytes: int
    processes: ProcessList
    whose: dict[int, Whose] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two readings of a device say.

    Attributes
    ----------
    back : bool
        Nothing that the run took is missing.
    excess_bytes : int
        More in use than before, without what other processes have taken since; may be negative.
    foreign_bytes : int or None
        What other processes have taken since, less what they gave back; None: not known.
    why : str
        Why not; empty: it is.
    """

    back: bool
    excess_bytes: int
    foreign_bytes: int | None
    why: str = ""

    @property
    def source(self) -> Source:
        """Whether other processes could be told apart."""
        return Source.DEVICE if self.foreign_bytes is None else Source.PROCESS


def others_of(processes: ProcessList, whose: dict[int, Whose]) -> tuple[dict[int, int] | None, str]:
    """Return what other processes hold, by pid, and why that is not known."""
    if processes.source is Source.DEVICE:
        return None, processes.why
    nameless = [pid for pid in processes.bytes_of if whose.get(pid) is Whose.NAMELESS]
    if nameless:
        return None, f"the driver lists pid {nameless[0]}, which is no process here"
    foreign = {
        pid: held
        for pid, held in processes.bytes_of.items()
        if held is not None and whose.get(pid) is not Whose.OURS
    }
    return foreign, ""


def compare(before: Before, now: Now, slack_bytes: int = SLACK_BYTES) -> Comparison:
    """Judge whether what a run took on a device is back."""
    others, why = others_of(now.processes, now.whose)
    foreign = None
    if before.others is None or others is None:
        why = before.why or why
    else:
        foreign = sum(others.values()) - sum(before.others.values())
        slack_bytes += NEWCOMER_BYTES * len(others.keys() - before.others.keys())
    excess = now.used_bytes - before.used_bytes - (foreign or 0)
    listed = any(now.whose.get(pid) is Whose.OURS for pid in now.processes.bytes_of)
    return Comparison(not listed and excess <= slack_bytes, excess, foreign, why)


@dataclass(frozen=True, slots=True)
class Held:
    """VRAM that is not back.

    Attributes
    ----------
    note : str
        How much, where, and who holds it.
    survivors : list of str
        The holders that are proven to be of the run, each with its state.
    """

    note: str
    survivors: list[str]


def who_holds(
    before: Before,
    found: Comparison,
    run_id: str,
    states: Sequence[tuple[Holder, str]],
    *,
    waited_s: float,
    hidden: int = 0,
    namespace_only: bool = False,
) -> Held:
    """Say how much is missing on a device, and who holds it.

    Parameters
    ----------
    before, found
        The device, and what was found on it.
    run_id : str
        The run. A holder that carries its cookie is proven to be of the run.
    states : sequence of (Holder, str)
        The processes that have device files open, with their state; empty: gone meanwhile.
    waited_s : float
        How long the run's processes had been gone.
    hidden : int
        Processes that could not be looked into.
    namespace_only : bool
        Processes of other PID namespaces cannot be seen from here.
    """
    gpu = before.gpu
    holders = [(one, state) for one, state in states if state and one.may_hold(gpu.minor)]
    ours = [(one, state) for one, state in holders if one.run_id and one.run_id == run_id]
    parts = [
        f"{one.described()}, {_kind(one, run_id)}" for one, _ in (*ours, *_without(holders, ours))
    ]
    held = f"device files are open in {'; '.join(parts)}" if parts else "no holder was found"
    unseen = [
        f"{hidden} processes of other users could not be looked into" if hidden else "",
        "processes outside this container cannot be seen" if namespace_only else "",
        f"whether others took it is not known: {found.why}" if found.foreign_bytes is None else "",
    ]
    amount = f"{max(0, found.excess_bytes) / _MB:,.0f} MB more in use than before the run"
    note = ". ".join(
        [f"{gpu.label}: {amount} after {waited_s:.1f} s; {held}", *filter(None, unseen)]
    )
    survivors = [
        f"{one.described()}, state {state}, holds VRAM of GPU {gpu.index}" for one, state in ours
    ]
    return Held(note, survivors)


def _without(
    holders: Sequence[tuple[Holder, str]], ours: Sequence[tuple[Holder, str]]
) -> list[tuple[Holder, str]]:
    return [pair for pair in holders if pair not in ours]


def _kind(holder: Holder, run_id: str) -> str:
    if holder.run_id and holder.run_id == run_id:
        return "of this run"
    if holder.run_id:
        return f"of run {holder.run_id}"
    return "not known to be of this run" + (
        ", its parent has probably died" if holder.orphan else ""
    )
