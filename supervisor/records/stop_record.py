"""The requests to end one run, in the order they came, and what they led to.

The front keeps one while it runs; whatever reads a run's events afterwards folds the same
requests into the same record. So both say the same of who asked first, and of which signal
came last.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from supervisor.records.report import Rung, StopReport

ECHO = "flag"
"""What the warden gives as the origin of a stop when it sees the flag before the request that
set it: the request knows more."""

_LEVELS = ("drain", "stop", "kill")


@dataclass(slots=True)
class StopRecord:
    """What was asked of a run, and the rungs that followed.

    Attributes
    ----------
    requested_by, reason : str
        Of the first request; empty: there was none.
    level : str
        The highest that was asked for: ``drain``, ``stop`` or ``kill``.
    own_signal, relayed_signal : int
        The last signal by which the front was asked, as the front says and as the warden
        passes it on; 0: none did.
    rungs : list of Rung
        What the warden did about it.
    """

    requested_by: str = ""
    reason: str = ""
    level: str = ""
    own_signal: int = 0
    relayed_signal: int = 0
    rungs: list[Rung] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.requested_by)

    @property
    def signal(self) -> int:
        """The last signal that asked; 0: none did.

        The front's word counts: what the warden passes on may arrive after the next signal.
        """
        return self.own_signal or self.relayed_signal

    def note(self, level: str, reason: str, by: str, *, relayed: bool = False) -> None:
        """Take one more request in.

        Parameters
        ----------
        level : str
            ``drain``, ``stop`` or ``kill``.
        reason : str
            Why; empty: there is no more to say than who asked.
        by : str
            A signal's name, ``stop command``, ``python``, ``warden``, or :data:`ECHO`.
        relayed : bool
            It is the warden that tells of it; the front may have told of it, too.
        """
        if not self or (self.requested_by == ECHO != by):
            self.requested_by, self.reason = by, reason or by
        if not self.level or _LEVELS.index(level) > _LEVELS.index(self.level):
            self.level = level
        if relayed:
            self.relayed_signal = _number(by) or self.relayed_signal
        else:
            self.own_signal = _number(by) or self.own_signal

    def rung(self, name: str, at_s: float, acted_on: int) -> None:
        """Note a rung that was reached ``at_s`` seconds after the request."""
        if self:
            self.rungs.append(Rung(name, round(at_s, 6), acted_on))

    def report(self, elapsed_s: float, survivors: list[str]) -> StopReport | None:
        """Say how the run was ended on request; None: nothing asked for it."""
        if not self:
            return None
        return StopReport(self.requested_by, self.level, elapsed_s, self.rungs, survivors)


def _number(name: str) -> int:
    return signal.Signals[name] if name in signal.Signals.__members__ else 0
