"""One round on this machine: attempts that are disturbed, then one that is left alone."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from tests.chaos import engine
from tests.chaos.engine import ViolationError
from tests.chaos.local.aftermath import Aftermath
from tests.chaos.local.blows import Blows
from tests.chaos.local.files import Files
from tests.chaos.local.order import Expected, order
from tests.chaos.local.run import Run
from tests.chaos.local.scenario import Attempt, Phase, Scenario
from tests.chaos.local.workload import Hold
from tests.support.waiting import let_pass, until

_ENDINGS = {0, 1, *(128 + n for n in (1, 2, 15)), *(-n for n in (1, 2, 9, 15))}


class Round(engine.Round):
    """Plays one scenario in a directory of its own."""

    def __init__(self, scenario: Scenario, root: Path, expected: Expected) -> None:
        super().__init__(scenario.seed, str(scenario))
        self._scenario = scenario
        self._expected = expected
        self._run = Run(scenario, root, self.note)
        self.place = self._run.place
        self._blows = Blows(self._run, self.outcome)
        self._aftermath = Aftermath(self._run, scenario, self.outcome)
        self._files = Files(self._run, scenario, self.outcome)
        self._report_before = 0

    def carry_out(self) -> None:
        """Play every attempt."""
        for attempt in self._scenario.attempts:
            self._disturbed(attempt)
        self._left_alone()

    def tell(self) -> str:
        """Describe what is left, what the command said, events and logs."""
        run = self._run
        texts = ["left now: " + "; ".join(self._aftermath.left())]
        texts += ["stderr:", run.out("stderr")[-3000:], "stdout:", run.out("stdout")[-1500:]]
        texts += ["events:", run.events()[-4000:]]
        for log in sorted((run.run_dir / "logs").glob("*.log")):
            if log.stat().st_size:
                texts += [f"{log.name}:", log.read_text(errors="replace")[-2000:]]
        return "\n".join(texts)

    def clear(self) -> None:
        """Leave nothing behind, even if the product does."""
        for stop, _ in self._run.stops:
            if stop.returncode is None:
                stop.kill()
                stop.communicate()
        self._aftermath.clear()
        self.place.clear()
        self._run.marks.close()

    def _disturbed(self, attempt: Attempt) -> None:
        run, holds = self._run, self._scenario.hold is not Hold.NONE
        run.arm(holds)
        self._start(self._command(by_order=attempt.by_order))
        for blow in attempt.blows:
            run.await_phase(blow.phase)
            let_pass(blow.delay_s)
            self._blows.strike(blow)
        last = time.monotonic()
        self._blows.await_stops(drains=False, excused=self._aftermath.may_leave_bare)
        self._blows.resume_suspended()
        if holds:
            if not attempt.blows:
                run.await_phase(Phase.FLAGGED)  # which never comes: until the worker holds
            self._end_hold()
        code = self._await_front()
        self._blows.await_stops(drains=True, excused=self._aftermath.may_leave_bare)
        self._aftermath.await_quiet()
        self.outcome.end_s = max(self.outcome.end_s, time.monotonic() - last)
        self.note(f"ended with {code}")
        if code not in _ENDINGS or (not attempt.blows and not holds and code != 0):
            raise ViolationError(f"the command ended with {code}")
        self._check()
        self._files.damage(attempt.damage)

    def _left_alone(self) -> None:
        self._run.arm(False)
        whole, failing = self._expected.of(self._scenario)
        report = self._finish(self._command(by_order=False))
        if report["combos_failed"] > failing and self._blows.worker_kills:
            # a combination whose worker is killed twice counts as the culprit: not by its own
            # fault here, so it is tried once more
            self.outcome.counts["times combinations were tried again"] += 1
            report = self._finish(["resume", str(self._run.run_dir), "--json", "--retry-failed"])
        if report["status"] != "completed" or report["combos_failed"] != failing:
            raise ViolationError(f"not completed, or too many have failed: {report}")
        self._files.check_equal(whole)
        self._check()

    def _check(self) -> None:
        self._files.check()
        if self._report_written() != self._report_before:  # another attempt's: damaged since
            self.check_report(self._run.run_dir)

    def _report_written(self) -> int:
        """When the report that is there was written, in ns; 0: there is none."""
        with contextlib.suppress(FileNotFoundError):
            return (self._run.run_dir / "report.json").stat().st_mtime_ns
        return 0

    def _start(self, command: list[str]) -> None:
        self._report_before = self._report_written()
        self._run.start(command)

    def _finish(self, command: list[str]) -> dict[str, Any]:
        self._start(command)
        code = self._await_front()
        self._aftermath.await_quiet()
        self.note(f"ended with {code}")
        if code != 0:
            raise ViolationError(f"a resume that is left alone ended with {code}")
        report: dict[str, Any] = json.loads(self._run.out("stdout").splitlines()[-1])
        return report

    def _command(self, *, by_order: bool) -> list[str]:
        if by_order or not (self._run.run_dir / "run.json").exists():
            return order(self.place, self._scenario, containment=self._scenario.containment)
        return ["resume", str(self._run.run_dir), "--json"]

    def _end_hold(self) -> None:
        """Ask what would hold for ever to end, unless it is ending."""
        run, s = self._run, self._scenario
        if until(lambda: run.front_over, s.grace_s + s.terminate_s + 0.3):
            return
        if run.popen and run.popen.poll() is None:
            self.note("SIGTERM, for it would hold for ever")
            run.popen.terminate()
            run.asked_to_end = True

    def _await_front(self) -> int:
        run, limit_s = self._run, self._run.patience_s
        assert run.popen is not None
        if not until(lambda: run.front_over, limit_s):
            raise ViolationError(f"the command hangs after {limit_s:g} s")
        return int(run.popen.returncode)
