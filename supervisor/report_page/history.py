"""Memory of a run over time, read from its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from supervisor.records import facts
from supervisor.records.events import Fact, read_events

MAX_POINTS = 2000
"""Samples kept; no dropped sample is larger than the neighbour that is kept."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An instant worth a mark: ``at_s`` after the run's start."""

    at_s: float
    text: str


@dataclass(slots=True)
class History:
    """Memory of a run over time.

    Attributes
    ----------
    at_s : list of float
        Instants of the samples, in s after the first worker was forked.
    ram_bytes : list of int
        Memory of the run's processes at these instants.
    stop : Mark or None
        Time and origin of the request to stop.
    rungs : list of Mark
        Rungs of the escalation.
    gone_s : float or None
        When the last process was gone.
    """

    at_s: list[float] = field(default_factory=list)
    ram_bytes: list[int] = field(default_factory=list)
    stop: Mark | None = None
    rungs: list[Mark] = field(default_factory=list)
    gone_s: float | None = None


def read(run_dir: Path) -> History:
    """Read a run's history; of a resumed run, that since it was last resumed."""
    history = History()
    began = 0.0
    for fact in read_events(run_dir):
        if fact.name == "warden.run_started":
            history, began = History(), fact.at
        _add(history, fact, max(0.0, fact.at - began))  # a clock may have been set back
    history.at_s, history.ram_bytes = thin(history.at_s, history.ram_bytes)
    return history


def thin(
    at_s: list[float], ram_bytes: list[int], most: int = MAX_POINTS
) -> tuple[list[float], list[int]]:
    """Keep the largest of each group of neighbouring samples, and the first and the last."""
    step = -(-len(at_s) // max(1, most - 2))
    if step <= 1:
        return at_s, ram_bytes
    kept = {0, len(at_s) - 1}
    for low in range(0, len(at_s), step):
        kept.add(max(range(low, min(low + step, len(at_s))), key=ram_bytes.__getitem__))
    order = sorted(kept)
    return [at_s[i] for i in order], [ram_bytes[i] for i in order]


def _add(history: History, fact: Fact, at_s: float) -> None:
    match facts.known(fact):
        case facts.RunStarted() as started:
            _sample(history, 0.0, started.ram_baseline_bytes)
        case facts.MemorySampled(ram_bytes):
            _sample(history, at_s, ram_bytes)
        case facts.StopRequested() as request if fact.name.startswith("warden."):
            history.stop = history.stop or _requested(at_s, request)
        case facts.StopRequested() as request:
            # the front knows the requester; the warden may know only the flag, but earlier
            history.stop = _requested(history.stop.at_s if history.stop else at_s, request)
        case facts.RungReached(rung, _, acted_on):
            processes = f"{acted_on} process{'es' * (acted_on != 1)}"
            history.rungs.append(Mark(at_s, f"{rung}: {processes}"))
    if fact.name == "warden.run_ended":
        history.gone_s = at_s


def _requested(at_s: float, request: facts.StopRequested) -> Mark:
    return Mark(at_s, f"stop requested by {request.by}")


def _sample(history: History, at_s: float, ram_bytes: int) -> None:
    history.at_s.append(round(at_s, 4))
    history.ram_bytes.append(ram_bytes)
