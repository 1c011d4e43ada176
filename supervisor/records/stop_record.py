"""The requests to end one run, in the order they came, and what followed.

The front keeps one while it runs. A process that reads the run's events later folds the same
requests into the same record, so both agree on which request came first, and which signal
last.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from supervisor.records.report import Rung, StopReport

ECHO = "flag"
"""Origin that the warden gives to a stop if it sees the flag before the request that set it. The
request, when it comes, replaces it."""

LEVELS = ("drain", "stop", "kill")


@dataclass(slots=True)
class StopRecord:
    """The requests to end a run, and the rungs that followed.

    Attributes
    ----------
    requested_by, reason : str
        Of the first request, in the order in which the warden received them; empty: there was
        none. Requests that the warden never received count only if it received no other.
    level : str
        The highest that was requested: ``drain``, ``stop`` or ``kill``.
    own_signal, relayed_signal : int
        The last signal that requested a stop, as the front and as the warden tell; 0: none did.
    rungs : list of Rung
        The steps that the warden took.
    """

    requested_by: str = ""
    reason: str = ""
    level: str = ""
    own_signal: int = 0
    relayed_signal: int = 0
    rungs: list[Rung] = field(default_factory=list)
    _ordered: bool = False

    def __bool__(self) -> bool:
        return bool(self.requested_by)

    @property
    def signal(self) -> int:
        """The last signal that requested a stop; 0: none did.

        The front's word counts: what the warden passes on may arrive after the next signal.
        """
        return self.own_signal or self.relayed_signal

    def note(self, level: str, reason: str, by: str, *, relayed: bool = False) -> None:
        """Add a request.

        Parameters
        ----------
        level : str
            ``drain``, ``stop`` or ``kill``.
        reason : str
            Why; empty: only the origin is known.
        by : str
            A signal's name, ``stop command``, ``python``, ``warden``, or :data:`ECHO`.
        relayed : bool
            The warden reports it; the front may have reported it, too.
        """
        if not self.level or LEVELS.index(level) > LEVELS.index(self.level):
            self.level = level
        first_in_order = relayed and by != ECHO and not self._ordered
        if not self or first_in_order or (self.requested_by == ECHO != by):
            self.requested_by, self.reason = by, reason or by
        self._ordered = self._ordered or first_in_order
        if relayed:
            self.relayed_signal = _number(by) or self.relayed_signal
        else:
            self.own_signal = _number(by) or self.own_signal

    def rung(self, name: str, at_s: float, acted_on: int) -> None:
        """Note a rung that was reached ``at_s`` seconds after the request."""
        if self:
            self.rungs.append(Rung(name, round(at_s, 6), acted_on))

    def report(self, elapsed_s: float, survivors: list[str]) -> StopReport | None:
        """Describe how the run was ended on request; None: there was no request."""
        if not self:
            return None
        return StopReport(self.requested_by, self.level, elapsed_s, self.rungs, survivors)


def _number(name: str) -> int:
    return signal.Signals[name] if name in signal.Signals.__members__ else 0
