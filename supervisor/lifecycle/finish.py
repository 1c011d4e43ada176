"""The end of a run on disk: results compacted, report written, registry cleared.

The front does this at the end of its run. Where the front was killed, the warden has ended
the run's processes and starts this module as a fresh process to do the rest:
``python -P -m supervisor.lifecycle.finish RUN_DIR``. Front and finisher build the report in
one function, :func:`conclude`, from observations: the front has made them itself, the finisher
reads them from the run's facts.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from supervisor.errors import AllstopError, ConfigError, RunBusyError, UntrustedError
from supervisor.lifecycle import gather as results
from supervisor.lifecycle.gather import count_covered, drop_checkpoints, gather
from supervisor.records import registry, rundir
from supervisor.records.claim import claim_directory
from supervisor.records.command import AnyPlan, plan_of
from supervisor.records.plan import Plan
from supervisor.records.report import (
    Gathered,
    MemoryReport,
    Report,
    StopReport,
    read_report,
    unseen,
)
from supervisor.records.scribe_line import ScribeLine, await_written
from supervisor.records.story import Story
from supervisor.records.verdict import Jobs, Observed, Results, verdict
from supervisor.rows import checksum
from supervisor.rows.frames import HEADER_BYTES
from supervisor.rows.journal import journal_paths
from supervisor.states import ExitCode, RunStatus
from supervisor.system.environment import child_environment
from supervisor.system.shape import ShapeError

PATIENCE_S = 10.0
"""How long to wait for another process that is finishing the same run."""

DAMAGED_REPORT_FILE = "report-damaged.json"

_FRONT_DIED = "the front died"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a report says besides the verdict, all of it observed.

    Attributes
    ----------
    containment : str
        The one in use; ``none``: the work had not begun.
    elapsed_s : float
        From the first fork to the last end, in s.
    stop : StopReport or None
        How the run was ended on request.
    memory : MemoryReport or None
        None: not measured.
    jobs : sequence of dict
        The last known state of each cluster job.
    command_status : int or None
        Exit status of a supervised command.
    """

    containment: str = "none"
    elapsed_s: float = 0.0
    stop: StopReport | None = None
    memory: MemoryReport | None = None
    jobs: Sequence[dict[str, Any]] = ()
    command_status: int | None = None


def conclude(
    plan: AnyPlan,
    run_dir: Path,
    observed: Observed,
    gathered: Gathered,
    measured: Measured,
    errors: list[str],
) -> Report:
    """Judge how a run ended, and build its report; nothing is written yet."""
    status, reason, exit_code, cause = verdict(observed)
    if gathered.unwritten and reason != gathered.unwritten:
        errors = [*errors, gathered.unwritten]
    return Report(
        run_id=plan.run_id,
        status=status,
        reason=reason,
        exit_code=exit_code,
        containment=measured.containment,
        combos_total=plan.combos_total,
        combos_done=gathered.done,
        combos_failed=gathered.failed,
        elapsed_s=round(measured.elapsed_s, 6),
        run_dir=str(run_dir),
        stop=measured.stop,
        memory=measured.memory,
        jobs=list(measured.jobs),
        errors=errors,
        resumed=plan.resumed,
        command_status=measured.command_status,
        cause=str(cause),
        observed=observed.to_json(),
        seed=plan.seed if isinstance(plan, Plan) else None,
        data=plan.data_facts.to_json() if isinstance(plan, Plan) else {},
    )


def write_report(report: Report) -> None:
    """Write a run's report; a run that failed because of a user's mistake is removed instead.

    It is kept if anything was computed before.

    Raises
    ------
    OSError
        If the report could not be written.
    """
    run_dir = Path(report.run_dir)
    if report.usage and not (report.resumed or report.combos_done or _has_rows(run_dir)):
        rundir.discard(run_dir)
        return
    if report.status is RunStatus.COMPLETED:
        drop_checkpoints(run_dir)
    report.write()


def _has_rows(run_dir: Path) -> bool:
    """Whether a journal holds more than its header, readable or not: then nothing is removed."""
    journals = [path for folder in rundir.journal_dirs(run_dir) for path in journal_paths(folder)]
    return any(path.stat().st_size > HEADER_BYTES for path in journals)


def finish_dead_run(run_dir: Path, *, trusted: bool = False, errors: Sequence[str] = ()) -> Report:
    """Write results and report of a run whose front is gone and whose processes have ended.

    The caller holds the :class:`~supervisor.records.claim.Claim` on the directory, and removes
    the registry entry when it has seen that no process is left. ``trusted``: the user says that
    the run's front is dead, though it was another host's. ``errors``: remarks for the report.
    """
    plan = plan_of(run_dir)
    errors = list(errors)
    jobs = _see_jobs_gone(run_dir, errors, trusted=trusted)
    gathered = gather(run_dir, plan, errors.append) if isinstance(plan, Plan) else Gathered()
    story = Story.of(run_dir)
    left = story.survivors + _holders_of_vram(story, plan, errors) + unseen(jobs)
    ended = story.ended or _last_written(run_dir)
    measured = Measured(
        containment=story.containment,
        elapsed_s=max(0.0, ended - story.began) if story.began else 0.0,
        stop=story.stop.report(_stop_elapsed_s(story), left),
        memory=story.memory,
        jobs=jobs,
        command_status=story.command_status,
    )
    observed = _observed(story, jobs, gathered, left=bool(left))
    report = conclude(plan, run_dir, observed, gathered, measured, errors + story.errors)
    write_report(report)
    return report


def _holders_of_vram(story: Story, plan: AnyPlan, errors: list[str]) -> list[str]:
    """Measure the GPUs that the run has used; return its processes that hold their memory."""
    if not story.gpus:
        return []
    from supervisor.lifecycle.gpu.dead_run import measure  # not for runs on the CPU

    return measure(story, plan, errors)


def _observed(
    story: Story, jobs: list[dict[str, Any]], gathered: Gathered, *, left: bool
) -> Observed:
    how, why = story.jobs, story.jobs_reason
    if how is None:
        how, why = _how_jobs_ended(jobs)
    return Observed(
        work=story.work,
        jobs=how,
        stop_reason=story.stop.reason or _FRONT_DIED,
        signal=story.stop.signal,
        work_reason=story.work_reason,
        jobs_reason=why,
        usage=story.usage,
        left=left,
        **results.observed(gathered),
    )


def _how_jobs_ended(jobs: list[dict[str, Any]]) -> tuple[Jobs, str]:
    """How the cluster jobs of a run ended whose front died before they did."""
    from slurm.records.states import JobState

    if any(job["state"] == JobState.CANCELLED or not job["verified"] for job in jobs):
        return Jobs.CUT_SHORT, ""
    well = (JobState.COMPLETED, JobState.GONE)
    failed = [f"job {job['id']} {job['state']}" for job in jobs if job["state"] not in well]
    return (Jobs.FAILED, ", ".join(failed)) if failed else (Jobs.SETTLED, "")


def _stop_elapsed_s(story: Story) -> float:
    return story.stop.rungs[-1].at_s if story.stop.rungs else 0.0


def _see_jobs_gone(run_dir: Path, errors: list[str], *, trusted: bool) -> list[dict[str, Any]]:
    """Cancel the run's outstanding cluster jobs, and fetch what they have written.

    Returns the last known state of each. Bounded: jobs that cannot be cancelled now stay
    outstanding.
    """
    ledger = run_dir / rundir.LEDGER_FILE
    if not ledger.exists():
        return []
    from slurm.reconcile import cancel_outstanding
    from slurm.records.book import Book
    from slurm.records.outcome import JobOutcome, outcomes
    from slurm.records.outstanding import orphaned
    from slurm.records.states import JobState
    from supervisor.lifecycle.staging import fetch_what_is_left
    from supervisor.records.ledger import read_ledger

    for outstanding in orphaned(ledger, trusted=trusted):
        cancelled = cancel_outstanding(outstanding)
        if cancelled.error:
            errors.append(cancelled.error)
    try:
        errors += fetch_what_is_left(run_dir)
        book = Book.of(read_ledger(ledger))
    except AllstopError as error:  # of a later version, or not ours: jobs may be left
        errors.append(str(error))
        return [JobOutcome(None, "", str(JobState.UNKNOWN), verified=False)._asdict()]
    return [
        job._replace(verified=job.verified or book.detached)._asdict() for job in outcomes(book)
    ]


def _last_written(run_dir: Path) -> float:
    journals = [path for folder in rundir.journal_dirs(run_dir) for path in journal_paths(folder)]
    return max((path.stat().st_mtime for path in journals), default=0.0)


def report_of_dead_run(run_dir: Path, *, trusted: bool = False) -> Report:
    """Return the report of a run that no process works on; write it if there is none.

    One that is damaged is written again from what was observed, and kept beside the new one. The
    caller holds the claim; see :func:`finish_dead_run`.
    """
    damage = ""
    if os.path.lexists(run_dir / rundir.REPORT_FILE):
        try:
            return read_report(run_dir)
        except ConfigError as error:
            damage = f"{error}; written again, and the damaged one kept as {DAMAGED_REPORT_FILE}"
            (run_dir / rundir.REPORT_FILE).replace(run_dir / DAMAGED_REPORT_FILE)
    return finish_dead_run(run_dir, trusted=trusted, errors=[damage] if damage else [])


# -- results that could not be written when the run ended ----------------------


def lacks_results(report: Report, plan: Plan) -> bool:
    """Whether a run's results are missing or damaged, or its report still says so.

    A process that writes them later may be killed before it corrects the report.
    """
    run_dir = Path(report.run_dir)
    unwritten = report.observed.get("results") == Results.UNWRITTEN
    results_file = run_dir / rundir.RESULTS_FILE
    written = results_file.is_file() and not (unwritten or checksum.is_damaged(results_file))
    return not written and count_covered(run_dir, plan) > 0


def write_late_results(report: Report, plan: Plan) -> Report | None:
    """Write results that could not be written when the run ended, and judge the run again.

    The caller holds the claim on the run's directory. Only the observation of the results
    changes, so the verdict is the same as if they had been written at once.

    Returns
    -------
    Report or None
        The report as it is now, on disk too; None: the results still cannot be written.

    Raises
    ------
    OSError
        If the report could not be written.
    """
    gathered = gather(Path(report.run_dir), plan, lambda _line: None)
    if gathered.unwritten:
        return None
    observed = replace(_observed_before(report), **results.observed(gathered))
    status, reason, exit_code, cause = verdict(observed)
    corrected = replace(
        report,
        status=status,
        reason=reason,
        exit_code=exit_code,
        cause=str(cause),
        observed=observed.to_json(),
        combos_done=gathered.done,
        combos_failed=gathered.failed,
        errors=[line for line in report.errors if line != report.observed.get("unwritten_reason")],
    )
    corrected.write()
    return corrected


def _observed_before(report: Report) -> Observed:
    """The observations behind a report's verdict; from the run's facts if it lacks them."""
    try:
        return Observed.from_json(report.observed)
    except ShapeError:
        story = Story.of(Path(report.run_dir))
        return _observed(story, report.jobs, Gathered(), left=bool(unseen(report.jobs)))


def start_finisher(run_dir: Path, scribe: ScribeLine | None) -> None:
    """Start the process that writes results and report when the disk answers; return at once.

    ``scribe`` hangs up: what it has been sent is written first.

    Raises
    ------
    OSError
        If no process can be started.
    """
    program = [sys.executable, "-P", "-m", "supervisor.lifecycle.finish", str(run_dir)]
    fds = []
    if scribe is not None:
        scribe.hang_up()
        fds = [scribe.fileno()]
    process = subprocess.Popen(
        [*program, *map(str, fds)],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        cwd="/",
        start_new_session=True,
    )
    # a long-lived program would otherwise keep it as a zombie
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=process.wait, name="allstop-finisher", daemon=True).start()


def main() -> None:
    """Entry point of the process that a warden starts after its front has died.

    A front starts it too if the disk of its run does not answer. ``finish RUN_DIR [SCRIBE]``:
    the line to the run's scribe, which has everything written before it hangs up.
    """
    run_dir = Path(sys.argv[1])
    if sys.argv[2:]:
        await_written(int(sys.argv[2]))
    if not (run_dir / rundir.RUN_FILE).exists():
        return  # a run that failed because of a user's mistake was removed
    try:
        rundir.check_own(run_dir)
        with claim_directory(run_dir, PATIENCE_S):
            # with a report, the front was killed before it removed the registry entry
            report = report_of_dead_run(run_dir)
            if report.exit_code != ExitCode.INCOMPLETE:
                registry.remove(report.run_id)  # the warden saw everything gone
            else:
                registry.leave_to_reap(report.run_id)  # its front may live on
    except RunBusyError:
        pass  # the run is being resumed or cleaned up already: that process writes both
    except UntrustedError as error:
        sys.exit(f"allstop: {error}")


if __name__ == "__main__":
    main()
