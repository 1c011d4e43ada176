"""The workspace of a session of measurements: its directory, and the runs it starts.

All files are in one temporary directory, including the registry of runs, and every process
that was started is ended on exit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import supervisor
from bench.harness.errors import NotMeasuredError
from bench.harness.processes import Watch
from bench.harness.words import HOLD_VARIABLE, PATH_VARIABLE, Words
from supervisor.records import rundir
from supervisor.records.events import read_events
from supervisor.rows.frames import Frame, FrameKind
from supervisor.rows.journal import JournalTail
from supervisor.system import durable, process

DEADLINE_S = 120.0
"""Bound for a hang; no step takes that long."""

_LOOK_EVERY_S = 0.0005
_LOOK_FOR_ROWS_EVERY_S = 0.004
"""Two processes load their libraries meanwhile: listing files more often would slow them by
more than the 2 ms that this interval adds to the measurement."""


def wait_until(condition: Callable[[], bool], what: str, *, every_s: float = _LOOK_EVERY_S) -> None:
    """Poll until a condition holds.

    Raises
    ------
    NotMeasuredError
        If it does not in time.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() >= deadline:
            raise NotMeasuredError(f"not within {DEADLINE_S:g} s: {what}")
        time.sleep(every_s)


class Workspace:
    """A temporary directory, with words shared with all workers.

    Attributes
    ----------
    root : Path
        The directory.
    words : Words
        Shared with every process that is started from here.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.words = Words.create(root / "words")
        self._numbers = itertools.count()

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator[Self]:
        """Make a workspace and, in this process's environment, lead runs to it."""
        with tempfile.TemporaryDirectory(prefix="allstop-bench-") as name:
            root = Path(name)
            variables = {
                PATH_VARIABLE: str(root / "words"),
                HOLD_VARIABLE: "0",
                "XDG_STATE_HOME": str(root / "state"),
                "XDG_RUNTIME_DIR": str(root / "runtime"),
                "XDG_CACHE_HOME": str(root / "cache"),
            }
            for variable in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
                Path(variables[variable]).mkdir(mode=0o700)
            before = {variable: os.environ.get(variable) for variable in variables}
            os.environ.update(variables)
            try:
                yield cls(root)
            finally:
                for variable, value in before.items():
                    if value is None:
                        os.environ.pop(variable, None)
                    else:
                        os.environ[variable] = value

    def hold(self, n_bytes: int) -> None:
        """Say how much memory the workloads hold from now on."""
        os.environ[HOLD_VARIABLE] = str(n_bytes)

    def new_run_dir(self) -> Path:
        """Return a path for the next run."""
        return self.root / f"run-{next(self._numbers):04d}"

    def command(self, *arguments: str) -> CommandRun:
        """Start ``python -m supervisor run`` with these arguments."""
        return CommandRun(self.root, self.new_run_dir(), arguments)


class CommandRun:
    """A run from the command line, as a user types it.

    A context manager: whatever of it still lives at the end is killed.

    Attributes
    ----------
    run_dir : Path
        The run's directory.
    begun_at : float
        ``time.monotonic()`` just before the command was started.
    """

    def __init__(self, cwd: Path, run_dir: Path, arguments: Sequence[str]) -> None:
        self.run_dir = run_dir
        self._said = run_dir.with_suffix(".out")
        command = [sys.executable, "-P", "-m", "supervisor", "run", *arguments]
        environment = environment_of_commands()
        with self._said.open("wb") as output:
            self.begun_at = time.monotonic()
            self._process = subprocess.Popen(
                [*command, "--json", "--run-dir", str(run_dir)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env=environment,
            )
        self._tail = JournalTail(run_dir / rundir.JOURNAL_DIR)

    @property
    def pid(self) -> int:
        """The front's pid; it stays the front's until :meth:`wait`."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            with self.watch() as all_of_it:
                self._process.kill()
                all_of_it.wait_gone(DEADLINE_S)
        self._process.wait()

    def send(self, number: int) -> None:
        """Signal the front."""
        self._process.send_signal(number)

    @property
    def ended(self) -> bool:
        """Whether the front is gone."""
        return self._process.poll() is not None

    @property
    def computes(self) -> bool:
        """Whether its workers have been started."""
        return any(fact.name == "warden.run_started" for fact in read_events(self.run_dir))

    def wait(self) -> int:
        """Wait for the front's end; return its exit code."""
        return self._process.wait(DEADLINE_S)

    @property
    def leaders(self) -> list[int]:
        """The front, with which the command ends."""
        return [self.pid]

    def pids(self) -> list[int]:
        """Pids of the run's processes: front, warden and workers."""
        return [self.pid, *process.descendants(self.pid)]

    def watch(self) -> Watch:
        """Watch the run's processes: front, warden and workers."""
        return Watch(self.pids())

    def watch_workers(self) -> Watch:
        """Watch what the warden has started: workers and whatever is below them."""
        wardens = process.children(self.pid)
        return Watch([pid for warden in wardens for pid in process.descendants(warden)])

    def first_rows(self) -> Frame:
        """Wait for the first rows in a journal."""
        found: list[Frame] = []

        def look() -> bool:
            ended = self.ended  # asked first: what it wrote before is read below
            found.extend(frame for frame in self._tail.poll() if frame.kind is FrameKind.ROWS)
            if ended and not found:
                raise NotMeasuredError(f"the command gave no row: {self.said()}")
            return bool(found)

        wait_until(look, "first row in a journal", every_s=_LOOK_FOR_ROWS_EVERY_S)
        return found[0]

    def report(self) -> dict[str, Any]:
        """Return the run's report, once it is there."""
        path = self.run_dir / rundir.REPORT_FILE
        wait_until(
            lambda: path.exists() or self._process.poll() not in (None, -9),
            "the run's report",
        )
        if not path.exists():
            raise NotMeasuredError(f"the run left no report: {self.said()}")
        return durable.read_json(path, shared=True)

    def said(self) -> str:
        """Return the last line of what the command printed."""
        lines = self._said.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"


def environment_of_commands() -> dict[str, str]:
    """Return an environment in which our packages are importable from anywhere."""
    environment = dict(os.environ)
    root = Path(supervisor.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [others])])
    return environment
