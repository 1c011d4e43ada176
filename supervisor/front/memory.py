"""Memory of a run's processes: sampled during the run, measured until it is released."""

from __future__ import annotations

import select
import time

from supervisor.front.phase import End, Started
from supervisor.records.events import EventLog
from supervisor.records.report import MemoryReport
from supervisor.system import memory

_FACT_EVERY_S = 0.5
_BEFORE_START_S = 0.25
_SETTLE_POLL_S = 0.005


class MemoryWatch:
    """Watches what the warden and all its descendants hold.

    Parameters
    ----------
    events : EventLog
        Receives a sample twice a second, more often during a stop.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._sampler = memory.Sampler(0)  # until the warden has introduced itself
        self._next_fact = 0.0

    @property
    def last_bytes(self) -> int:
        """Latest sample, in bytes."""
        return self._sampler.last

    @property
    def due(self) -> float:
        """``time.monotonic()`` instant of the next sample."""
        return self._sampler.due

    def watch(self, warden: int) -> None:
        """Watch the warden of this pid, and its descendants."""
        self._sampler.root = warden

    def begin(self, started: Started) -> None:
        """Sample from now on: the warden has measured the baseline."""
        self._sampler.peak = started.ram_baseline_bytes
        self._sampler.due = started.at + self._sampler.interval_s

    def put_off(self) -> None:
        """Wait for the baseline, which is the warden's to measure."""
        self._sampler.due = time.monotonic() + _BEFORE_START_S

    def sample(self, *, stopping: bool) -> None:
        """Take a sample; during a stop each is a fact."""
        ram_bytes = self._sampler.sample()
        now = time.monotonic()
        if now >= self._next_fact or stopping:
            self._next_fact = now + _FACT_EVERY_S
            self._events.emit("memory_sampled", ram_bytes=ram_bytes)

    def see_back(
        self, started: Started, end: End, *, stop_at: float, verify_s: float
    ) -> MemoryReport:
        """Measure until memory is back at its baseline, or ``verify_s`` is over.

        Parameters
        ----------
        started, end
            The run's.
        stop_at : float
            ``time.monotonic()`` instant of the request to end it; 0: there was none.
        verify_s : float
            How long to measure, in s.
        """
        since = requested_at(end, stop_at)
        deadline = time.monotonic() + verify_s
        baseline = started.ram_baseline_bytes
        peak = max(self._sampler.peak, baseline)
        while True:
            after = memory.tree_bytes(self._sampler.root)
            now = time.monotonic()
            back = after <= baseline + memory.SETTLED_SLACK_BYTES
            if back or now >= deadline:
                break
            select.select([], [], [], _SETTLE_POLL_S)
        self._events.emit("memory_settled", ram_bytes=after, back=back)
        settled_s = round(now - since, 6) if back else None
        return MemoryReport(
            ram_baseline_bytes=baseline,
            ram_peak_bytes=peak,
            ram_after_bytes=after,
            ram_freed_bytes=max(0, peak - after),
            settled_s=settled_s,
            ram_settled_s=settled_s,
        )

    def so_far(self, started: Started) -> MemoryReport:
        """Return what is known when the warden is dead: what its processes held is not."""
        baseline = started.ram_baseline_bytes
        return MemoryReport(baseline, max(self._sampler.peak, baseline))


def requested_at(end: End, stop_at: float) -> float:
    """Return the ``time.monotonic()`` instant from which a run's memory is awaited.

    That of the request to end it or, where there was none (0), of the end of its work.
    """
    return stop_at or time.monotonic() - end.elapsed_s
