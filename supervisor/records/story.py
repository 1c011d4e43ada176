"""The end of a run, read from its facts by a process that did not observe it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from supervisor.errors import ConfigError
from supervisor.records import facts
from supervisor.records.events import Fact, read_events
from supervisor.records.report import MemoryReport
from supervisor.records.rundir import EVENTS_FILE
from supervisor.records.stop_record import LEVELS, StopRecord
from supervisor.records.verdict import Jobs, Work
from supervisor.states import RunStatus

NOT_SEEN = "its front and its warden were killed"

_BEGINNINGS = ("front.resume_begun", "front.run_requested")
"""What begins an attempt: a resumed one may die before it has a warden to ask."""


_SAMPLED = "front.memory_sampled"
_OUTCOMES = (RunStatus.COMPLETED, RunStatus.STOPPED, RunStatus.FAILED)


def ended_as(outcome: RunStatus, *, elsewhere: bool) -> Work:
    """How the work ended, from the warden's outcome; ``elsewhere``: cluster jobs compute the sweep.

    Raises
    ------
    ValueError
        If the outcome is not final.
    """
    match outcome:
        case RunStatus.COMPLETED:
            return Work.ELSEWHERE if elsewhere else Work.DONE
        case RunStatus.STOPPED:
            return Work.STOPPED
        case RunStatus.FAILED:
            return Work.FAILED
    raise ValueError(f"{outcome} is not the end of a run")


@dataclass(slots=True)
class Story:
    """The end of a run's latest attempt, as ``events.jsonl`` tells it.

    Attributes
    ----------
    began, ended : float
        Unix time of the first fork and of the last process's end, in s; 0: not known.
    containment : str
        The one in use; ``none``: the work had not begun.
    work, work_reason, usage
        How the work ended, see :class:`~supervisor.records.verdict.Observed`.
    elsewhere : bool
        Cluster jobs compute the sweep.
    jobs : Jobs or None
        How the cluster jobs ended, with ``jobs_reason``; None: the front died before they did.
    stop : StopRecord
        The requests to stop the run.
    survivors : list of str
        Processes that could not be ended.
    memory : MemoryReport or None
        What the front measured while it was alive.
    gpus : dict of VramBaseline
        By UUID, a device before the run used it.
    gpu_peaks : dict of int
        By UUID, the largest reading, in bytes.
    last_at : float
        Unix time of the last fact, in s.
    command_status : int or None
        Exit status of a supervised command.
    errors : list of str
        Remarks for the report.
    """

    began: float = 0.0
    ended: float = 0.0
    containment: str = "none"
    work: Work = Work.LOST
    work_reason: str = NOT_SEEN
    usage: bool = False
    elsewhere: bool = False
    jobs: Jobs | None = None
    jobs_reason: str = ""
    stop: StopRecord = field(default_factory=StopRecord)
    survivors: list[str] = field(default_factory=list)
    memory: MemoryReport | None = None
    gpus: dict[str, facts.VramBaseline] = field(default_factory=dict)
    gpu_peaks: dict[str, int] = field(default_factory=dict)
    last_at: float = 0.0
    command_status: int | None = None
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run_dir: Path) -> Story:
        """Read a run's facts; those of earlier attempts are left out."""
        story = cls()
        try:
            for fact in read_events(run_dir):
                if fact.name in _BEGINNINGS:
                    story = cls()
                story.take_in(fact)
        except OSError as error:  # what was finished is in the journals all the same
            story.errors.append(f"{run_dir / EVENTS_FILE} cannot be read: {error.strerror}")
        except ConfigError as error:
            story.errors.append(str(error))
        return story

    def take_in(self, fact: Fact) -> None:
        """Add a fact; one of an unknown kind, or without a field that is needed, is ignored."""
        self.last_at = fact.at
        match facts.known(fact):
            case facts.RunRequested(elsewhere):
                self.elsewhere = elsewhere
            case facts.RunStarted(containment, baseline):
                self.memory = MemoryReport(baseline, baseline)
                self.began, self.containment = fact.at, containment
            case facts.MemorySampled(ram_bytes) if self.memory and fact.name == _SAMPLED:
                self.memory.ram_peak_bytes = max(self.memory.ram_peak_bytes, ram_bytes)
            case facts.VramBaseline() as baseline:
                self.gpus[baseline.uuid] = baseline
            case facts.VramSampled(peak_bytes):
                self.gpu_peaks |= peak_bytes
            case facts.StopRequested(level, reason, by) if level.lower() in LEVELS:
                relayed = fact.name.startswith("warden.")
                self.stop.note(level.lower(), reason, by, relayed=relayed)
            case facts.RungReached(rung, at_s, acted_on):
                self.stop.rung(rung, at_s, acted_on)
            case facts.CommandEnded(status):
                self.command_status = status
            case facts.LeftBehind(processes):
                self.errors += [f"left behind by the command: {name}" for name in processes]
            case facts.RunRefused(error, usage):
                self._end(Work.FAILED, error, usage=usage)
            case facts.RunEnded() as ended if ended.outcome in _OUTCOMES:
                self.ended, self.survivors = fact.at, ended.survivors
                work = ended_as(ended.outcome, elsewhere=self.elsewhere)
                self._end(work, ended.reason, usage=ended.usage)
            case facts.Finishing() as seen:
                # the front has observed what the warden could not report: its death, for one
                self.survivors = seen.survivors
                self._end(seen.work, seen.reason, usage=seen.usage)
            case facts.Survivors(survivors):
                held = fact.name == "front.vram_held"
                self.survivors = [*self.survivors, *survivors] if held else survivors
            case facts.JobsEnded(jobs, reason, usage):
                self.jobs, self.jobs_reason = jobs, reason
                self.usage = self.usage or usage

    def _end(self, work: Work, reason: str, *, usage: bool) -> None:
        self.work, self.work_reason, self.usage = work, reason, usage
