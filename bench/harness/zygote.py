"""A process like the warden that forks on demand and says how long it took.

``python -P -m bench.harness.zygote DIRECTORY N_BARS`` reads ``computing``, ``worker`` or
``fork`` a line and answers in seconds. A process of its own, because a fork costs the more
the more memory the forking process holds, and a measurement holds a lot.
"""

from __future__ import annotations

import gc
import mmap
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import supervisor.warden.sweep  # noqa: F401 - so that this process is as large as a warden
from bench.harness.bare import prepared
from bench.harness.errors import NotMeasuredError
from bench.harness.processes import fork
from bench.harness.workspace import DEADLINE_S, environment_of_commands
from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.example import example_bars
from supervisor.records import rundir
from supervisor.rows.grid import Grid
from workers.backend import Backend, Chunk
from workers.main import Station, run_worker
from workers.registry import preload

STRATEGY = "sma_cross"
GRID = {"fast": range(5, 305), "slow": range(310, 1010, 2)}
"""Has more combinations than can be finished before the stop."""


class Zygote:
    """The process, from outside; ended on leaving the context."""

    def __init__(self, directory: Path, n_bars: int) -> None:
        arguments = ["-P", "-m", "bench.harness.zygote", str(directory), str(n_bars)]
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env=environment_of_commands(),
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin and self._process.stdout:
            self._process.stdin.close()
            self._process.stdout.close()
        self._process.wait(DEADLINE_S)

    def computing(self) -> float:
        """Return the time from a worker's fork until it begins to compute, in s."""
        return self._ask("computing")

    def worker(self) -> float:
        """Return the time from a worker's fork to its first row in its journal, in s."""
        return self._ask("worker")

    def fork_and_wait(self) -> float:
        """Return the time of a fork and the end of a process that does nothing, in s."""
        return self._ask("fork")

    def _ask(self, what: str) -> float:
        if not self._process.stdin or not self._process.stdout:
            raise NotMeasuredError("the zygote has no pipes")
        try:
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            return float(answer)
        except (BrokenPipeError, ValueError):
            raise NotMeasuredError("the process that forks broke; see above") from None


class _Clocked:
    """A backend that records when its first computation begins."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.batch = backend.batch
        self._noted = mmap.mmap(-1, 8)  # shared with a forked worker

    def prepare(self) -> None:
        self._backend.prepare()

    def start(self) -> None:
        self._backend.start()

    def evaluate(self, chunk: Chunk) -> int:
        struct.pack_into("d", self._noted, 0, time.monotonic())
        return self._backend.evaluate(chunk)

    @property
    def asked_at(self) -> float:
        """``time.monotonic()`` of that instant."""
        at: float = struct.unpack_from("d", self._noted)[0]
        return at


def _time_worker(run_dir: Path, backtest: Backend, *, to_first_row: bool = True) -> float:
    """Fork a worker as the warden does; it and its journal are the product's own."""
    rundir.create(run_dir)
    ours, theirs = messages.pair()
    flag, table = StopFlag(), ProgressTable.create(1)
    station = Station(0, 0, os.getpid(), theirs, flag, table, "bench", run_dir)
    clocked = _Clocked(backtest)

    def work() -> None:
        ours.close()
        run_worker(station, clocked)

    begun = time.monotonic()
    pid = fork(work)
    theirs.close()
    try:
        messages.receive(ours)  # it is ready
        messages.send(ours, messages.Compute(0, 1))
        message, _ = messages.receive(ours)
        ended = time.monotonic()
    finally:
        ours.close()
        os.waitpid(pid, 0)
    if not isinstance(message, messages.Computed):
        raise NotMeasuredError(f"the worker said {message}")
    return (ended if to_first_row else clocked.asked_at) - begun


def _time_fork() -> float:
    begun = time.monotonic()
    os.waitpid(fork(_nothing), 0)
    return time.monotonic() - begun


def _nothing() -> None:
    """Do nothing."""


def _serve(directory: Path, n_bars: int) -> None:
    preload(STRATEGY)
    backtest = prepared(example_bars(n_bars), Grid.of(GRID), STRATEGY)
    gc.freeze()  # as the warden does before it forks
    for number, line in enumerate(sys.stdin):
        asked = line.strip()
        if asked == "fork":
            took_s = _time_fork()
        else:
            run_dir = directory / f"zygote-{number:04d}"
            took_s = _time_worker(run_dir, backtest, to_first_row=asked == "worker")
        sys.stdout.write(f"{took_s!r}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
