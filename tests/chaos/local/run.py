"""The run of a round: its current attempt, and how far that has come."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from supervisor.rows.journal import journal_paths
from supervisor.system import process
from supervisor.system.process import Identity
from tests.chaos.local.marks import Marks
from tests.chaos.local.order import VERIFY_S, furnished
from tests.chaos.local.scenario import Deed, Phase, Scenario, Target
from tests.chaos.local.workload import ARMED
from tests.support.cli import Place
from tests.support.processes import main_children
from tests.support.waiting import DEADLINE_S, until

MARGIN_S = 15.0
"""Granted beyond the rungs before an end counts as a hang: the machine may be busy."""

_START_S = 6.0  # for a run to begin, before a blow falls all the same
_PHASE_S = 0.4  # from then on, for a phase that may never come
_WORKER = re.compile(r"allstop-w\d")


class Run:
    """A run that is disturbed, attempt after attempt, in one directory.

    Attributes
    ----------
    place, marks
        Where it runs, and by what its processes are found.
    seen : set of Identity
        Every process of it that was ever found.
    limit_s : float
        Within which an attempt must end once it was asked to.
    popen, front
        The command of the current attempt.
    struck, suspended, stops
        What was done to the current attempt: targets reached, processes stopped by SIGSTOP,
        ``stop`` commands.
    asked_to_end
        Whether the current attempt was stopped, or lost its front or warden: it must end soon.
    """

    def __init__(self, scenario: Scenario, root: Path, note: Callable[[str], None]) -> None:
        self.place: Place = furnished(root, scenario)
        self.marks = Marks(self.place)
        self.run_dir = root / "run"
        self.seen: set[Identity] = set()
        self.limit_s = scenario.grace_s + scenario.terminate_s + VERIFY_S + MARGIN_S
        self.note = note
        self.popen: subprocess.Popen[bytes] | None = None
        self.front: Identity | None = None
        self.struck: set[Target] = set()
        self.suspended: list[Identity] = []
        self.stops: list[tuple[subprocess.Popen[str], Deed]] = []
        self.asked_to_end = False
        self._warden_pid = 0
        self._events_from = 0
        self._journals_from = 0
        self._results_before = 0

    def arm(self, armed: bool) -> None:
        """Have workers hold where the scenario says so, or not."""
        path = self.place.root / ARMED
        if armed:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def start(self, command: list[str]) -> None:
        """Start the next attempt."""
        self.note(f"start: {command[0]}")
        self._warden_pid = 0
        self._events_from = self.size("events.jsonl")
        self._journals_from = self._journal_bytes()
        self._results_before = self._inode("results.parquet")
        self.struck, self.suspended, self.stops = set(), [], []
        self.asked_to_end = False
        # a session of its own: the process group is that of the front
        started = self.place.start(self.place.argv(*command), start_new_session=True)
        self.popen = started.popen
        self.front = Identity.of(self.popen.pid)

    @property
    def front_over(self) -> bool:
        """Whether the command has ended."""
        return self.popen is None or self.popen.poll() is not None

    def events(self) -> str:
        """Lines of ``events.jsonl`` that the current attempt has written."""
        with contextlib.suppress(OSError), (self.run_dir / "events.jsonl").open() as file:
            file.seek(self._events_from)
            return file.read()
        return ""

    def size(self, name: str) -> int:
        """Size in bytes of a file of the run; 0: there is none."""
        with contextlib.suppress(OSError):
            return (self.run_dir / name).stat().st_size
        return 0

    def out(self, name: str) -> str:
        """What the command wrote to ``stdout`` or ``stderr``."""
        with contextlib.suppress(OSError):
            return (self.place.root / name).read_text(errors="replace")
        return ""

    def warden(self) -> int:
        """Pid of the warden, or of the process that is to become it; 0: unknown."""
        if not self._warden_pid:
            for line in self.events().splitlines():
                if "front.run_requested" in line:
                    with contextlib.suppress(ValueError):
                        self._warden_pid = int(json.loads(line)["warden"])
        if self._warden_pid or self.front is None:
            return self._warden_pid
        return (main_children(self.front.pid) or [0])[-1]

    @property
    def patience_s(self) -> float:
        """Within which the current attempt must end; without a stop, it may compute to its end."""
        return self.limit_s if self.asked_to_end else DEADLINE_S

    def is_worker(self, pid: int) -> bool:
        """Whether a process bears a worker's name."""
        return bool(_WORKER.match(process.command_name(pid)))

    def await_phase(self, phase: Phase) -> None:
        """Wait for a phase; one that may never come is not waited for long."""

        def reached() -> bool:
            return self._reached(phase) or not self._anything_alive()

        if not until(lambda: reached() or "run_started" in self.events(), _START_S):
            return
        until(reached, _PHASE_S)

    def _reached(self, phase: Phase) -> bool:
        match phase:
            case Phase.SPAWNED:
                return True
            case Phase.STARTER:
                return bool(main_children(self.popen.pid)) if self.popen else False
            case Phase.ROWS:
                return self._journal_bytes() > self._journals_from
            case Phase.INPUTS:
                return self.size("inputs.json") > 0
            case Phase.COMPACTING:
                return self._inode("results.parquet") != self._results_before or any(
                    self.run_dir.glob(".results.parquet*")
                )
            case Phase.RESULTS:
                return self._inode("results.parquet") not in (0, self._results_before)
            case Phase.REPORT:
                return self.size("report.json") > 0
            case Phase.FRONT_GONE:
                return self.front_over
        return phase in self.events()

    def _anything_alive(self) -> bool:
        """Whether front or warden is still alive, as far as they are known."""
        front = self.front is not None and self.front.alive
        return front or process.state_letter(self.warden() or 0) not in (None, "Z", "X")

    def _inode(self, name: str) -> int:
        with contextlib.suppress(OSError):
            return (self.run_dir / name).stat().st_ino
        return 0

    def _journal_bytes(self) -> int:
        return sum(path.stat().st_size for path in journal_paths(self.run_dir / "journal"))
