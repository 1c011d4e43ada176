"""A sweep inside the test's own process, watched like one from the command line."""

from __future__ import annotations

import os
import select
from typing import Any

import supervisor
from supervisor.api import Run
from supervisor.front.link import WardenLink, _spare
from supervisor.ipc import messages
from supervisor.system.process import Identity, descendants
from tests.support.cli import PATIENT_S, Place, Started
from tests.support.processes import present
from tests.support.waiting import DEADLINE_S, wait_for


class Inside(Started):
    """A run of this process's: its warden is kept warm for the next one."""

    def __init__(self, place: Place, run: Run) -> None:
        super().__init__(place, None)  # type: ignore[arg-type]
        self.run = run

    @property
    def front(self) -> int:
        return os.getpid()

    @property
    def warden(self) -> int:
        return self.run._front.link.pid

    def look_below(self) -> None:
        """Note every process of the run."""
        self.seen.update(i for i in map(Identity.of, descendants(self.warden)) if i is not None)

    look = look_below

    @property
    def over(self) -> bool:
        return not self.run.running

    def tell_end(self) -> str:
        return f"running: {self.run.running}"

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for the run's end; return the exit code that a command would have."""
        report = self.run.wait(timeout_s)
        assert report is not None, f"did not end within {timeout_s:g} s\n{self.tell()}"
        return report.exit_code

    def stop(self) -> int:
        self.look_below()
        return self.run.stop().exit_code

    def assert_gone(self) -> None:
        """No process of the run's is left; its warden may be kept for the next one."""
        wait_for(
            lambda: not present(self.seen) and not descendants(self.warden),
            "every process gone",
            tell=lambda: "\n".join([*present(self.seen), self.tell()]),
        )


def kept_wardens() -> list[int]:
    """Pids of the wardens that this process keeps for its next run."""
    return [link.pid for link in _spare]


def sweep_inside(
    place: Place, body: str, *, n: int = 1000, workers: int = 2, times: Any = None, **constants: Any
) -> Inside:
    """Start a sweep over ``a`` = 0 … n - 1 with a strategy file of the test's."""
    run = supervisor.sweep(
        place.strategy(body, **constants),
        {"a": range(n)},
        place.data,
        workers=workers,
        run_dir=place.root / "run",
        **({"grace_s": PATIENT_S} | (times or {})),
    )
    place.inside.append(run)
    return Inside(place, run)


def see_idle(link: WardenLink) -> None:
    """Wait until a warden is done with its last run: only then it closes what came too late."""
    ours, theirs = os.pipe()
    try:
        link.send(messages.DumpStacks(), [theirs])
        os.close(theirs)
        held = select.poll()
        held.register(ours, 0)
        assert held.poll(1000 * DEADLINE_S), "the warden holds it still, or does not listen"
    finally:
        os.close(ours)
