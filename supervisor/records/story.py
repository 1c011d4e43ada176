"""The end of a run, read from its facts by a process that did not observe it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.records.events import Fact, read_events
from supervisor.records.report import MemoryReport
from supervisor.records.stop_record import StopRecord
from supervisor.records.verdict import Jobs, Work
from supervisor.states import RunStatus

NOT_SEEN = "its front and its warden were killed"

_BEGINNINGS = ("front.resume_begun", "front.run_requested")
"""What begins an attempt: a resumed one may die before it has a warden to ask."""


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
    gpus : dict of dict
        By UUID, the fields of the fact about a device before the run used it.
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
    gpus: dict[str, dict[str, Any]] = field(default_factory=dict)
    gpu_peaks: dict[str, int] = field(default_factory=dict)
    last_at: float = 0.0
    command_status: int | None = None
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run_dir: Path) -> Story:
        """Read a run's facts; those of earlier attempts are left out."""
        story = cls()
        for fact in read_events(run_dir):
            if fact.name in _BEGINNINGS:
                story = cls()
            story.take_in(fact)
        return story

    def take_in(self, fact: Fact) -> None:
        """Add a fact; one of an unknown kind, or without a field that is needed, is ignored."""
        try:
            self._take_in(fact)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return

    def _take_in(self, fact: Fact) -> None:
        fields, self.last_at = fact.fields, fact.at
        match fact.name:
            case "front.run_requested":
                self.elsewhere = fields["elsewhere"] is True
            case "warden.run_started":
                baseline = int(fields["ram_baseline_bytes"])
                self.memory = MemoryReport(baseline, baseline)
                self.began, self.containment = fact.at, str(fields["containment"])
            case "front.memory_sampled" if self.memory:
                peak = max(self.memory.ram_peak_bytes, int(fields["ram_bytes"]))
                self.memory.ram_peak_bytes = peak
            case "front.vram_baseline":
                self.gpus[str(fields["uuid"])] = fields
            case "front.vram_sampled":
                self.gpu_peaks |= {uuid: int(peak) for uuid, peak in fields["peak_bytes"].items()}
            case "front.vram_held":
                self.survivors += map(str, fields["survivors"])
            case "front.stop_requested" | "warden.stop_requested":
                relayed = fact.name.startswith("warden.")
                level = fields["level"].lower()
                self.stop.note(level, fields["reason"], fields["by"], relayed=relayed)
            case "warden.rung_reached":
                self.stop.rung(fields["rung"], fields["at_s"], fields["acted_on"])
            case "warden.command_ended":
                self.command_status = int(fields["status"])
            case "warden.left_behind":
                self.errors += [f"left behind by the command: {n}" for n in fields["processes"]]
            case "warden.run_refused":
                self._end(Work.FAILED, str(fields["error"]), usage=fields["usage"] is True)
            case "warden.run_ended":
                self.ended = fact.at
                self.survivors = list(map(str, fields["survivors"]))
                work = ended_as(RunStatus(fields["outcome"]), elsewhere=self.elsewhere)
                self._end(work, str(fields["reason"]), usage=fields["usage"] is True)
            case "front.finishing":
                # the front has observed what the warden could not report: its death, for one
                self.survivors = list(map(str, fields["survivors"]))
                self._end(
                    Work(fields["work"]), str(fields["reason"]), usage=fields["usage"] is True
                )
            case "front.leftovers_ended":
                self.survivors = list(map(str, fields["survivors"]))
            case "front.jobs_ended":
                self.jobs, self.jobs_reason = Jobs(fields["jobs"]), str(fields["reason"])
                self.usage = self.usage or fields["usage"] is True

    def _end(self, work: Work, reason: str, *, usage: bool) -> None:
        self.work, self.work_reason, self.usage = work, reason, usage
