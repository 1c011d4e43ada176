"""What must hold after an attempt: no process, cgroup, socket, entry or segment is left."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path

from supervisor.containment import cgroup
from supervisor.system.process import Identity
from tests.chaos.engine import Outcome, ViolationError
from tests.chaos.local.marks import Found
from tests.chaos.local.run import Run
from tests.chaos.local.scenario import Deed, Scenario, Target
from tests.chaos.local.workload import Behaviour
from tests.support.leaks import shared_memory_names, unused
from tests.support.processes import present
from tests.support.waiting import let_pass, until

_REAPED_S = 20.0  # for what the kernel, or init, does by itself as soon as it gets to it
_SCAN_S = 0.02
_IDLE_S = 0.06  # no process has been at work for that long: none will be


class Aftermath:
    """Sees everything of a run gone; runs ``reap`` once where no process was left to do it."""

    def __init__(self, run: Run, scenario: Scenario, outcome: Outcome) -> None:
        self._run = run
        self._scenario = scenario
        self._outcome = outcome
        self._names = shared_memory_names()

    def await_quiet(self) -> None:
        """See everything gone."""
        run = self._run
        if not self._await_clean(run.limit_s, while_at_work=True):
            self._reap()
            self._excuse_bare()
            if not self._await_clean(run.limit_s, while_at_work=False):
                raise ViolationError("left: " + "; ".join(self.left()))
        if run.seen and not until(lambda: not present(run.seen), _REAPED_S, _SCAN_S):
            raise ViolationError("zombies: " + "; ".join(present(run.seen)))
        if not until(lambda: not self._cgroups(), _REAPED_S, _SCAN_S):
            raise ViolationError(f"cgroups left: {self._cgroups()}")
        if not until(lambda: not unused(shared_memory_names() - self._names), _REAPED_S, _SCAN_S):
            left = sorted(unused(shared_memory_names() - self._names))
            raise ViolationError(f"names left in /dev/shm: {left}")

    def left(self) -> list[str]:
        """Everything that is there now: processes, registry entries, sockets."""
        run = self._run
        found = run.marks.found()
        run.seen.update(one.who for one in found)
        held = ["an unseen process that holds the FIFO"] * (not found and run.marks.held())
        return [*map(str, found), *held, *map(str, self._entries()), *map(str, self._sockets())]

    def may_leave_bare(self) -> bool:
        """Whether a killed warden's subreaper could not hold what has shed its environment."""
        run = self._run
        facts = [json.loads(line) for line in run.events().splitlines() if "run_started" in line]
        weak = any(fact.get("containment") == "subreaper" for fact in facts)
        stopped = any(deed is Deed.STOP_NOW for _, deed in run.stops)
        killed = bool({Target.WARDEN, Target.BOTH} & run.struck) or stopped
        return weak and self._scenario.behaviour is Behaviour.SCRUB and killed

    def clear(self) -> None:
        """Remove what the product has left."""
        until(lambda: not _kill(self._run.marks.found()), 10.0, _SCAN_S)
        for path in self._cgroups():
            with contextlib.suppress(OSError):
                path.rmdir()

    def _await_clean(self, seconds: float, *, while_at_work: bool) -> bool:
        """Wait until nothing is left; if asked, only while a process of ours is at work."""
        deadline = time.monotonic() + seconds
        idle_since = time.monotonic()
        while self.left():
            now = time.monotonic()
            if self._at_work():
                idle_since = now
            if now >= deadline or (while_at_work and now - idle_since >= _IDLE_S):
                return False
            let_pass(_SCAN_S)
        return True

    def _entries(self) -> list[Path]:
        return list((self._run.place.root / "state").glob("allstop/runs/*"))

    def _sockets(self) -> list[Path]:
        return list((self._run.place.root / "runtime").glob("allstop/*"))

    def _cgroups(self) -> list[Path]:
        """Cgroups of this round's run, and those tried out by its processes."""
        try:
            home = cgroup.own_cgroup()
        except OSError:
            return []
        names = [f"allstop-trial-{who.pid}" for who in self._run.seen]
        with contextlib.suppress(OSError, ValueError):
            run_id = json.loads((self._run.run_dir / "run.json").read_text())["run_id"]
            names.append(cgroup.name_of(run_id))
        return [home / name for name in names if (home / name).exists()]

    def _at_work(self) -> bool:
        """Whether front, warden, or the process that finishes or reaps for them is alive."""
        for path in self._entries():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                entry = json.loads(path.read_text())
                if Identity(**entry["front"]).alive or Identity(**entry["warden"]).alive:
                    return True
        # what a worker forks has its arguments, which are the warden's, but the worker's name
        return any(
            "-m supervisor." in one.command and not self._run.is_worker(one.who.pid)
            for one in self._run.marks.found()
        )

    def _reap(self) -> None:
        struck = self._run.struck
        both = {Target.FRONT, Target.GROUP} & struck and (
            Target.WARDEN in struck or self._cut_short()
        )
        left = self.left()
        if not left:
            return
        # the front was killed while it wrote the run's entry: nothing else knows of the file
        torn = {Target.FRONT, Target.GROUP} & struck and all(path.endswith(".tmp") for path in left)
        could_not_act = both or Target.BOTH in struck or torn or self.may_leave_bare()
        if not could_not_act:
            raise ViolationError("left, though front or warden could act: " + "; ".join(left))
        self._see_workers_gone()
        self._run.note("reap, for there is " + "; ".join(left))
        self._outcome.counts["times reap was needed and enough"] += 1
        said = self._run.place.command("reap", "--json")
        if said.returncode != 0:
            raise ViolationError(f"reap ended with {said.returncode}: {said.stdout}{said.stderr}")

    def _cut_short(self) -> bool:
        """Whether the front itself has killed the warden: it was asked to stop before the warden
        had begun, which reads no request while it loads.
        """
        names = [json.loads(line)["event"] for line in self._run.events().splitlines()]
        if "front.run_requested" not in names:
            return False
        attempt = names[len(names) - names[::-1].index("front.run_requested") :]
        return "front.stop_requested" in attempt and "warden.run_started" not in attempt

    def _see_workers_gone(self) -> None:
        """Whatever the containment: workers die with the warden, without any ``reap``."""
        lines = self._run.events().splitlines()
        workers = {json.loads(line)["pid"] for line in lines if "worker_st" in line}
        found = self._run.marks.found
        if not until(lambda: not workers & {one.who.pid for one in found()}, _REAPED_S):
            raise ViolationError(f"workers outlive the warden: {'; '.join(self.left())}")

    def _excuse_bare(self) -> None:
        found = self._run.marks.found()
        if self.may_leave_bare() and found and all(one.bare for one in found):
            self._outcome.counts[
                "escapees without environment under a killed subreaper, as documented"
            ] += len(found)
            _kill(found)


def _kill(found: list[Found]) -> int:
    return sum(one.who.send(signal.SIGKILL) for one in found)
