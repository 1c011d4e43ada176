"""The end of a run, after its processes: memory, cluster jobs, results, verdict, report."""

from __future__ import annotations

import contextlib
import time
from functools import partial

from supervisor.errors import ConfigError, DiskSilentError
from supervisor.front.host import Host
from supervisor.front.memory import requested_at
from supervisor.front.phase import Ended
from supervisor.front.vram import Outcome
from supervisor.ipc import messages
from supervisor.lifecycle import gather
from supervisor.lifecycle.finish import Measured, conclude, start_finisher, write_report
from supervisor.records import registry
from supervisor.records.report import Gathered, MemoryReport, Report
from supervisor.records.verdict import Jobs, Observed, Work
from supervisor.states import ExitCode
from supervisor.system import process
from supervisor.system.meanwhile import Meanwhile

_DONE = (Work.DONE, Work.ELSEWHERE)


class Ending:
    """Sees a run whose work has ended to its report.

    Parameters
    ----------
    front : Host
        The run's, in its last phase.
    """

    def __init__(self, front: Host) -> None:
        if not isinstance(front.phase, Ended):
            raise TypeError("the run's work has not ended")
        self._front = front
        self._started, self._end = front.phase.started, front.phase.end
        self._gone_at = time.monotonic()
        self._jobs, self._jobs_reason, self._jobs_usage = Jobs.SETTLED, "", False

    def report(self) -> Report:
        """Do all that is left to do, and write the report."""
        front, end = self._front, self._end
        survivors = self._end_leftovers()
        none_left = not (end.by_force or survivors)
        memory_back = Meanwhile(partial(self._see_memory_back, rest=none_left))
        try:
            front.await_disk()
            front.work.wrap_up(done=end.work in _DONE)
        except DiskSilentError as error:
            front.left_to = str(error)
        if front.work.jobs is not None:
            self._see_jobs_out()
        ghosts = front.work.jobs.view.unverified if front.work.jobs else []
        gathered = self._gather()
        memory, vram = memory_back.result()
        self._note_vram(vram, survivors)
        report = self._conclude(survivors, vram.survivors, ghosts, gathered, memory)
        if front.left_to:
            self._leave_to_finisher()
            front.keep_warden = False
            return report
        with contextlib.suppress(OSError):  # what it would look at lies where nothing may
            front.work.complete(report)
        self._write_report(report)
        front.keep_warden = front.keep_warden and none_left and not vram.survivors
        return report

    def _gather(self) -> Gathered:
        """Write the results, unless the disk does not answer: then another process does."""
        front = self._front
        with contextlib.suppress(DiskSilentError):
            if not front.left_to:
                front.await_disk()
                return self._gathered_here()
        gone_s = self._stop_elapsed_s()
        gone = "what could be ended was" if self._end.survivors else "all processes were"
        front.left_to = (
            f"the disk of {front.run_dir} does not answer: {gone} gone after {gone_s:.3f} s, and "
            "another process writes results and report when it does"
        )
        return Gathered(front.work.count().done, unwritten=front.left_to)

    def _gathered_here(self) -> Gathered:
        """Write the results; a directory that may not be entered has none, and the run an end."""
        front = self._front
        try:
            return front.work.gather()
        except OSError as error:
            unwritten = f"{front.run_dir}: {error.strerror}: results are written by allstop report"
            return Gathered(front.work.count().done, unwritten=unwritten)

    def _stop_elapsed_s(self) -> float:
        """From the request to the last process's end, in s; 0: it came after that, or never."""
        asked_at = self._front.asked_at
        return max(0.0, self._gone_at - asked_at) if asked_at else 0.0

    def _leave_to_finisher(self) -> None:
        """Have another process write results and report when the disk answers.

        Nothing is written here, in the registry neither: its entry leads ``reap`` and the next
        run to what is missing, should that process be killed.
        """
        front = self._front
        with contextlib.suppress(OSError, ConfigError):
            registry.socket_path(front.plan.run_id).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # no process can be started
            start_finisher(front.run_dir, front.link.scribe.line)

    def _end_leftovers(self) -> list[str]:
        """End the processes that a lost or killed warden has left; return the survivors."""
        front = self._front
        if not self._end.by_force:
            return list(self._end.survivors)
        front.link.kill()
        if not front.handed_over:
            return []  # the warden has not received the run
        from supervisor.containment.leftovers import end_leftovers

        if front.link.see_dead():
            # a directory that does not answer cannot name the run's cgroup
            run_dir = None if front.events.late else front.run_dir
            survivors = end_leftovers(front.plan.run_id, run_dir).survivors
        else:
            pid = front.link.pid
            state = process.state_letter(pid) or "gone"
            survivors = [f"pid {pid} (the warden), state {state}"]
        front.events.emit("leftovers_ended", survivors=survivors)
        return survivors

    def _see_memory_back(self, *, rest: bool) -> tuple[MemoryReport | None, Outcome]:
        """Measure RAM and VRAM; have the warden release its memory, unless it is still needed.

        Done while results are written: measuring walks page tables in the kernel, and so does
        the release, for which the front would otherwise wait at its end.
        """
        front, started = self._front, self._started
        measured, vram = None, Outcome()
        here = started is not None and not front.work.elsewhere
        verify_s = front.plan.times.verify_s
        since = requested_at(self._end, front.asked_at)
        if here:
            front.vram.begin_end(time.monotonic() + verify_s)
        if started and here and not self._end.by_force:
            measured = front.memory.see_back(
                started, self._end, stop_at=front.asked_at, verify_s=verify_s
            )
        if rest and front.work.jobs is None and not front.keep_warden:
            front.link.send(messages.Rest(str(front.run_dir)))
        if started and here:
            vram = front.vram.outcome(since, started.at)
            if measured is None and vram.gpus:
                measured = front.memory.so_far(started)
            if measured is not None:
                measured.add_vram(vram.gpus, vram.note)
        return measured, vram

    def _note_vram(self, vram: Outcome, survivors: list[str]) -> None:
        """Note VRAM that is not back; its holders are survivors if they are proven the run's."""
        for error in vram.errors:
            self._front.notes.note(error)
        known = {name.partition(" (")[0] for name in survivors}
        vram.survivors[:] = [one for one in vram.survivors if one.partition(" (")[0] not in known]
        if vram.survivors:
            self._front.events.emit("vram_held", survivors=vram.survivors)

    def _see_jobs_out(self) -> None:
        """Wait for the run's cluster jobs: for their own end, or for that of their cancel."""
        from supervisor.front.jobs import see_out

        front = self._front
        ended = see_out(front, wait=self._end.work in _DONE)
        self._jobs, self._jobs_reason, self._jobs_usage = ended
        self._gone_at = time.monotonic()
        front.events.emit(
            "jobs_ended", jobs=self._jobs, reason=self._jobs_reason, usage=self._jobs_usage
        )

    def _conclude(
        self,
        survivors: list[str],
        holders: list[str],
        ghosts: list[str],
        gathered: Gathered,
        memory: MemoryReport | None,
    ) -> Report:
        front = self._front
        left = survivors + holders + ghosts
        if not front.asked:
            for name in survivors:
                front.notes.note(f"could not be killed: {name}")
            for name in ghosts:
                front.notes.note(f"has not been seen to end: {name}")
        observed = Observed(
            work=self._end.work,
            jobs=self._jobs,
            stop_reason=front.asked.reason,
            signal=front.asked.signal,
            work_reason=self._end.reason,
            jobs_reason=self._jobs_reason,
            usage=self._end.usage or self._jobs_usage,
            left=bool(left),
            **gather.observed(gathered),
        )
        jobs = front.work.jobs
        measured = Measured(
            containment=self._started.containment if self._started else "none",
            elapsed_s=self._gone_at - front.began,
            stop=front.asked.report(round(self._stop_elapsed_s(), 6), left),
            memory=memory,
            jobs=[job._asdict() for job in jobs.view.jobs] if jobs else [],
            command_status=front.work.command_status,
        )
        return conclude(front.plan, front.run_dir, observed, gathered, measured, front.notes.errors)

    def _write_report(self, report: Report) -> None:
        try:
            write_report(report)
        except OSError as error:
            report.errors.append(f"report.json could not be written: {error.strerror}")
        # last: if we are killed before, the entry leads to what is missing. A warden that was
        # killed has left its socket, for which nothing would look afterwards
        registry.socket_path(report.run_id).unlink(missing_ok=True)
        if report.exit_code == ExitCode.INCOMPLETE:
            registry.leave_to_reap(report.run_id)
        else:
            registry.remove(report.run_id)
