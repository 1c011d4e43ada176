"""The end of a run on disk: results compacted, report written, registry cleared.

The front does this at the end of its run. Where the front was killed, the
warden has ended the run's processes and starts this module as a fresh process
to do the rest: ``python -P -m supervisor.lifecycle.finish RUN_DIR``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.errors import AllstopError, RunBusyError
from supervisor.records import registry, rundir
from supervisor.records.claim import claim_directory
from supervisor.records.command import read_plan
from supervisor.records.events import Fact, read_events
from supervisor.records.plan import Plan
from supervisor.records.report import Gathered, MemoryReport, Report, Rung, StopReport, unseen
from supervisor.rows.index import covered
from supervisor.rows.journal import journal_paths
from supervisor.rows.results import Compaction, compact
from supervisor.states import ExitCode, RunStatus
from supervisor.system import durable

PATIENCE_S = 10.0
"""How long to wait for another process that is finishing the same run."""

NOT_WRITTEN = f"{rundir.RESULTS_FILE} could not be written"


def compact_run(run_dir: Path, plan: Plan) -> Compaction:
    """Write ``results.parquet`` from whatever the journals hold."""
    return compact(rundir.journal_dirs(run_dir), run_dir / rundir.RESULTS_FILE, plan.space)


def gather(run_dir: Path, plan: Plan, note: Callable[[str], object]) -> Gathered:
    """Write ``results.parquet``; where that cannot be, count what the journals hold."""
    try:
        done = compact_run(run_dir, plan)
    except (AllstopError, OSError) as error:
        return Gathered(count_covered(run_dir, plan), unwritten=f"{NOT_WRITTEN}: {error}")
    for damage in done.damaged:
        note(f"{damage}: what it held was computed again")
    return Gathered(done.rows, done.failed, missing=count_missing(done, plan))


def count_missing(done: Compaction, plan: Plan) -> int:
    """How many of the combinations that the plan asks for are in no journal."""
    last, first = plan.span
    parts = ((max(start, first), min(stop, last)) for start, stop in done.missing)
    return plan.space.count_all(parts)


def count_covered(run_dir: Path, plan: Plan) -> int:
    """How many combinations a run's journals hold; 0 where they cannot be read."""
    try:
        space = plan.space
        return space.count_all(covered(rundir.journal_dirs(run_dir), space))
    except (AllstopError, OSError):
        return 0


def finish_dead_run(run_dir: Path) -> Report:
    """Write results and report of a run whose front is gone and whose processes have ended.

    The caller holds the :class:`~supervisor.records.Claim` on the directory. The
    registry keeps its entry for who sees to it that no process is left.
    """
    plan = read_plan(durable.read_json(run_dir / rundir.RUN_FILE))
    errors: list[str] = []
    jobs = _see_jobs_gone(run_dir, errors)
    done = failed = 0
    missing = False
    try:
        if isinstance(plan, Plan):
            compaction = compact_run(run_dir, plan)
            done, failed = compaction.rows, compaction.failed
            missing = count_missing(compaction, plan) > 0
            errors += compaction.damaged
    except (AllstopError, OSError) as error:
        errors.append(f"{NOT_WRITTEN}: {error}")
        done = count_covered(run_dir, plan) if isinstance(plan, Plan) else 0
    story = _Story.of(run_dir)
    if story.outcome is RunStatus.COMPLETED and (missing or _cut_off(jobs)):
        # what the warden guarded was done, but the run was more than that
        story.outcome, story.reason = RunStatus.STOPPED, "the front died"
    errors += story.errors
    incomplete = bool(story.survivors) or not all(job["verified"] for job in jobs)
    if story.stop:
        story.stop.survivors = story.survivors + unseen(jobs)
    ended = story.ended or _last_written(run_dir)
    report = Report(
        run_id=plan.run_id,
        status=story.outcome,
        reason=story.reason,
        exit_code=ExitCode.INCOMPLETE if incomplete else ExitCode.FAILED,
        containment=story.containment,
        combos_total=plan.combos_total,
        combos_done=done,
        combos_failed=failed,
        elapsed_s=round(max(0.0, ended - story.began), 6) if story.began else 0.0,
        run_dir=str(run_dir),
        stop=story.stop,
        memory=story.memory,
        errors=errors,
        resumed=plan.resumed,
        command_status=story.command_status,
        jobs=jobs,
    )
    if report.status is RunStatus.COMPLETED:
        drop_checkpoints(run_dir)
    report.write()
    return report


def _see_jobs_gone(run_dir: Path, errors: list[str]) -> list[dict[str, Any]]:
    """Cancel the cluster jobs that the run still owes, and fetch what they have written.

    Returns what became of each. Bounded: what cannot be cancelled now stays owed.
    """
    ledger = run_dir / rundir.LEDGER_FILE
    if not ledger.exists():
        return []
    from slurm.book import Book
    from slurm.cancel import outcomes
    from slurm.debts import orphaned
    from slurm.reconcile import work_off
    from supervisor.lifecycle.depot import fetch_what_is_left
    from supervisor.records.ledger import read_ledger

    for debt in orphaned(ledger):
        cancelled = work_off(debt)
        if cancelled.error:
            errors.append(cancelled.error)
    errors += fetch_what_is_left(run_dir)
    book = Book.of(read_ledger(ledger))
    return [
        job._replace(verified=job.verified or book.detached)._asdict() for job in outcomes(book)
    ]


def _cut_off(jobs: list[dict[str, Any]]) -> bool:
    return any(job["state"] == "cancelled" or not job["verified"] for job in jobs)


def drop_checkpoints(run_dir: Path) -> None:
    """Remove what unfinished combinations had saved, once there are none."""
    shutil.rmtree(run_dir / rundir.CHECKPOINT_DIR, ignore_errors=True)


@dataclass(slots=True)
class _Story:
    """What a run's facts tell, in order, about one whose front could not."""

    began: float = 0.0
    ended: float = 0.0
    containment: str = "none"
    reason: str = "its front and its warden were killed"
    stop: StopReport | None = None
    outcome: RunStatus = RunStatus.FAILED
    survivors: list[str] = field(default_factory=list)
    ram_baseline_bytes: int = 0
    ram_peak_bytes: int = 0
    command_status: int | None = None
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run_dir: Path) -> _Story:
        """Read a run's ``events.jsonl``."""
        story = cls()
        for fact in read_events(run_dir):
            if fact.name == "front.run_requested":
                story = cls()  # the run was resumed: what came before is another attempt's story
            story.hear(fact)
        return story

    def hear(self, fact: Fact) -> None:
        """Take one fact in."""
        fields = fact.fields
        match fact.name:
            case "warden.run_started":
                self.began = fact.at
                self.containment = fields["containment"]
                self.ram_baseline_bytes = self.ram_peak_bytes = fields["ram_baseline_bytes"]
            case "front.memory_sampled":
                self.ram_peak_bytes = max(self.ram_peak_bytes, fields["ram_bytes"])
            case "warden.stop_requested":
                self.stop = self.stop or StopReport(fields["by"], fields["level"].lower())
                self.reason = fields["reason"]
            case "warden.rung_reached" if self.stop:
                self.stop.rungs.append(Rung(fields["rung"], fields["at_s"], fields["acted_on"]))
                self.stop.elapsed_s = fields["at_s"]
            case "warden.command_ended":
                self.command_status = fields["status"]
            case "warden.left_behind":
                self.errors += [f"left behind by the command: {n}" for n in fields["processes"]]
            case "warden.run_ended":
                self.ended = fact.at
                self.outcome = RunStatus(fields["outcome"])
                self.survivors = list(fields["survivors"])

    @property
    def memory(self) -> MemoryReport | None:
        """What was measured while there was a front to measure it."""
        if not self.began:
            return None
        return MemoryReport(self.ram_baseline_bytes, self.ram_peak_bytes)


def _last_written(run_dir: Path) -> float:
    journals = [path for folder in rundir.journal_dirs(run_dir) for path in journal_paths(folder)]
    return max((path.stat().st_mtime for path in journals), default=0.0)


def main() -> None:
    """Entry point of the process that a warden starts after its front has died."""
    run_dir = Path(sys.argv[1])
    if not (run_dir / rundir.RUN_FILE).exists():
        return  # a mistake of the user's, which leaves nothing behind
    try:
        with claim_directory(run_dir, PATIENCE_S):
            written = run_dir / rundir.REPORT_FILE
            if written.exists():  # the front was killed between writing it and striking the run off
                report = Report.from_json(durable.read_json(written))
            else:
                report = finish_dead_run(run_dir)
            if report.exit_code != ExitCode.INCOMPLETE:
                registry.remove(report.run_id)  # the warden saw everything gone
    except RunBusyError:
        pass  # the run is being resumed or cleared away already: whoever does that writes both


if __name__ == "__main__":
    main()
