"""Runs the steps, each as a process of its own under a time limit.

A step that fails or takes too long is recorded with its reason, and the next one runs. Every
process that a step has left is ended before the next step begins: it would hold memory.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import bench
from bench.gpu.plan import Step, limit_of
from bench.gpu.record import Finding, Status, StepRecord
from bench.gpu.sizes import Sizes
from bench.gpu.step import Options
from supervisor.system import process

_ROOT = Path(bench.__file__).parent.parent
_TAIL_BYTES = 4000
_ENDING_S = 5.0

Argv = Callable[[Step, Options], list[str]]


def argv_of(step: Step, options: Options) -> list[str]:
    """Command line of a step."""
    return [sys.executable, "-P", "-m", "bench.gpu.step", step.name, options.to_json()]


def run_steps(
    steps: Sequence[Step],
    out: Path,
    expected: Path,
    sizes: Sizes,
    total_s: float,
    say: Callable[[str], None],
    argv: Argv = argv_of,
) -> dict[str, Finding]:
    """Run steps one after the other, within ``total_s`` seconds all together.

    Parameters
    ----------
    steps : sequence of Step
        In this order.
    out : Path
        Where each writes its file.
    expected : Path
        The expected rows.
    sizes : Sizes
        How much to measure.
    total_s : float
        When it is over, what has not run is recorded as such.
    say : callable
        Takes a line of progress.
    argv : callable, optional
        Returns a step's command line.

    Returns
    -------
    dict of str to Finding
        By step.
    """
    deadline = time.monotonic() + total_s
    found: dict[str, Finding] = {}
    with _adopting():
        for step in steps:
            record = StepRecord.begin(out / step.file, step.name, step.title)
            limit_s = limit_of(step, deadline - time.monotonic())
            if limit_s == 0.0:
                record.end(Status.NOT_RUN, f"the {total_s:g} s of this call are over", 0.0)
            else:
                say(f"{step.name}: {step.title} (at most {limit_s:.0f} s) …")
                options = Options(str(out), str(expected), sizes, limit_s, os.getpid())
                _run(argv(step, options), step, out, limit_s)
            found[step.name] = finding = StepRecord.resume(out / step.file, step.name).finding
            why = finding.why and ": " + finding.why.splitlines()[-1]
            say(f"{step.name}: {finding.status}{why}")
    return found


@contextmanager
def _adopting() -> Iterator[None]:
    """Be the parent of what a step leaves behind; only meanwhile: a caller reaps no orphans."""
    process.become_subreaper()
    try:
        yield
    finally:
        process.become_subreaper(wanted=False)


def _run(argv: list[str], step: Step, out: Path, limit_s: float) -> None:
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output:
        status, why = _run_within(argv, limit_s, output)
        said = _tail(output)
    # read only now: the step has written it meanwhile
    record = StepRecord.resume(out / step.file, step.name)
    if said and status is not Status.FAILED:
        record.finding.facts["output"] = said  # why a worker of the step has failed, perhaps
    record.end(status, why, time.monotonic() - begun)


def _run_within(argv: list[str], limit_s: float, output: IO[bytes]) -> tuple[Status, str]:
    env = os.environ | {"PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"}
    before = set(_below())
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
    try:
        child.wait(limit_s)
    except subprocess.TimeoutExpired:
        status, why = Status.TIMED_OUT, f"ended after its {limit_s:g} s"
    else:
        status, why = Status.DONE, ""
        if child.returncode:
            status = Status.FAILED
            why = _tail(output) or process.describe_exit(child.returncode)
    finally:
        child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_ENDING_S)
        left = _end_rest(before)
    return (Status.FAILED, f"{why} left behind: {left}".strip()) if left else (status, why)


def _end_rest(before: set[process.Identity]) -> str:
    """Kill and reap a step and what it has left: all are descendants of this process.

    Returns
    -------
    str
        What could not be ended in time, such as a process stuck in a driver; empty if nothing.
    """
    deadline = time.monotonic() + _ENDING_S
    while rest := [who for who in _below() if who not in before]:
        if time.monotonic() >= deadline:
            return ", ".join(f"{who.pid} ({process.state_letter(who.pid)})" for who in rest)
        for who in rest:
            who.send(signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(who.pid, os.WNOHANG)
        select.select([], [], [], 0.01)
    return ""


def _below() -> list[process.Identity]:
    me = process.Identity.of(os.getpid())
    return process.identities_below(me) if me else []


def _path() -> str:
    return os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL_BYTES))
    return output.read().decode(errors="replace").strip()
