"""Blows: signals to a run's processes, and ``stop`` commands from outside."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

from supervisor.system import process
from supervisor.system.process import Identity
from tests.chaos.engine import Outcome, ViolationError
from tests.chaos.local.run import Run
from tests.chaos.local.scenario import FROM_OUTSIDE, Blow, Deed, Target

_BELOW = (Target.WORKER, Target.WORKERS, Target.GRANDCHILD)


class Blows:
    """Strikes the current attempt of a run; notes what reached a process."""

    def __init__(self, run: Run, outcome: Outcome) -> None:
        self._run = run
        self._outcome = outcome
        self.worker_kills = 0

    def strike(self, blow: Blow) -> None:
        """Do one thing to the run."""
        if blow.deed in FROM_OUTSIDE:
            self._stop_from_outside(blow.deed)
            self._run.asked_to_end = True
            self._did(blow, str(blow.deed))
            return
        victims = self._victims(blow)
        self._run.seen.update(victims)
        if not self._send(blow, victims):
            self._run.note(f"no process to strike: {blow}")
            return
        self._did(blow, f"{blow.deed} to {blow.target}")
        self._run.struck.add(blow.target)
        self._run.asked_to_end |= blow.deed is not Deed.SUSPEND and blow.target not in _BELOW
        self.worker_kills += blow.target in (Target.WORKER, Target.WORKERS)
        if blow.deed is Deed.SUSPEND:
            self._run.suspended += victims

    def resume_suspended(self) -> None:
        """Undo every SIGSTOP."""
        for who in self._run.suspended:
            who.send(signal.SIGCONT)

    def await_stops(self, *, drains: bool, excused: Callable[[], bool]) -> None:
        """Wait for the ``stop`` commands; a drain of a worker that holds ends only with it.

        ``excused`` tells whether the containment cannot hold what is left.
        """
        for stop, deed in self._run.stops:
            if (deed is Deed.DRAIN) > drains or stop.returncode is not None:
                continue
            try:
                said, _ = stop.communicate(timeout=self._run.limit_s)
            except subprocess.TimeoutExpired:
                stop.kill()
                stop.communicate()
                raise ViolationError(f"{deed} hangs") from None
            self._run.note(f"{deed}: {stop.returncode} {said.strip()!r}")
            # 2: there was nothing to stop yet, or no longer
            if stop.returncode not in (0, 2) and not excused():
                raise ViolationError(f"{deed} ended with {stop.returncode}: {said}")

    def _send(self, blow: Blow, victims: list[Identity]) -> bool:
        number = signal.Signals[str(blow.deed)]
        popen = self._run.popen
        if blow.target is Target.GROUP:
            # not waited for yet: the pid, and the number of the group, belong to no other
            if popen is None or popen.returncode is not None:
                return False
            os.killpg(popen.pid, number)
            return True
        if blow.target is Target.BOTH:
            for who in victims:  # neither can react to the other's death
                who.send(signal.SIGSTOP)
        return sum(who.send(number) for who in victims) > 0

    def _did(self, blow: Blow, deed: str) -> None:
        self._run.note(str(blow))
        self._outcome.deeds.append(deed)

    def _victims(self, blow: Blow) -> list[Identity]:
        run = self._run
        warden = run.marks.ours(run.warden()) if run.warden() else None
        front = [run.front] if run.front else []
        match blow.target:
            case Target.FRONT | Target.GROUP:
                return front
            case Target.WARDEN:
                return [warden] if warden else []
            case Target.BOTH:
                return [*([warden] if warden else []), *front]
        workers = process.children(warden.pid) if warden else []
        if blow.target is Target.WORKER:
            workers = _pick(workers, blow.pick)
        if blow.target is Target.GRANDCHILD:
            below = [pid for worker in workers for pid in process.descendants(worker)]
            workers = _pick(below, blow.pick)
        return [who for who in map(run.marks.ours, workers) if who]

    def _stop_from_outside(self, deed: Deed) -> None:
        words, place = str(deed).split(), self._run.place
        stop = subprocess.Popen(
            place.argv(words[0], str(self._run.run_dir), *words[1:]), cwd=place.work,
            env=place.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._run.stops.append((stop, deed))


def _pick(pids: list[int], share: float) -> list[int]:
    return [pids[int(share * len(pids))]] if pids else []
