"""Time and calls until none of a run's SLURM jobs is left.

Needs a SLURM cluster: ``make cluster-up`` starts one, ``eval "$(python -m tests.cluster
env)"`` sets the environment for it. The jobs are held, so that the cancellation is
measured and not the nodes. The floor is a program that knows only ids: it calls ``scancel``
for one job after the other, then polls until none is left.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.harness.errors import NotMeasuredError
from bench.harness.interleave import Arm, interleave
from bench.harness.record import Comparison, Row, compare
from bench.harness.shape import Shape
from bench.harness.workspace import Workspace, wait_until
from slurm import Client
from slurm.batch.job import Job

TITLE = "Cancel: from the request until no job of the run was seen"

_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Cancelled:
    """One round: how long it took, and how often ``scancel`` was called."""

    took_s: float
    calls: int


def measure(shape: Shape, workspace: Workspace) -> list[Row]:
    """Cancel an array and single jobs, by us and by a call for each."""
    tasks, jobs = shape.cancel_tasks, shape.cancel_jobs
    seen = interleave(
        shape.cancel_rounds,
        {
            "array": lambda: _ours(1, tasks),
            "array, scancel": lambda: _by_hand(1, tasks),
            "jobs": lambda: _ours(jobs, 0),
            "jobs, scancel": lambda: _by_hand(jobs, 0),
        },
    )
    return [
        _row(seen, "array", f"one array of {tasks:,} tasks", "one scancel, squeue until none"),
        _row(seen, "jobs", f"{jobs:,} single jobs", "a scancel for each, squeue until none"),
    ]


def _row(seen: dict[str, Arm[_Cancelled]], arm: str, name: str, floor_name: str) -> Row:
    ours, floor = seen[arm], seen[f"{arm}, scancel"]
    reason = ours.not_measured or floor.not_measured
    if reason:
        return Row(name, "s", not_measured=reason)
    return compare(
        name,
        "s",
        [one.took_s for one in ours.seen],
        [one.took_s for one in floor.seen],
        comparison=Comparison.RATIO,
        floor_name=floor_name,
        details={
            "calls of scancel": [one.calls for one in ours.seen],
            "calls of scancel, floor": [one.calls for one in floor.seen],
        },
    )


def _ours(jobs: int, tasks: int) -> _Cancelled:
    _check_cluster()
    job = Job(
        command=["true"], hold=True, output="/dev/null", array=f"0-{tasks - 1}" if tasks else None
    )
    with Client(lease_s=0) as client:
        for _ in range(jobs):
            client.submit(job)
        begun = time.monotonic()
        cancelled = client.cancel()
        took_s = time.monotonic() - begun
        if not cancelled.complete:
            raise NotMeasuredError(f"the cluster still has jobs: {cancelled.error}")
    return _Cancelled(took_s, cancelled.calls)


def _by_hand(jobs: int, tasks: int) -> _Cancelled:
    _check_cluster()
    array = [f"--array=0-{tasks - 1}"] if tasks else []
    with _submitted(jobs, array) as ids:
        begun = time.monotonic()
        for job in ids:
            _ask("scancel", job)
        wait_until(lambda: not _left(ids), "none of the jobs left")
        return _Cancelled(time.monotonic() - begun, len(ids))


@contextmanager
def _submitted(jobs: int, options: list[str]) -> Iterator[list[str]]:
    """Held jobs of ours; gone at the end, whatever happened."""
    words = ["sbatch", "--parsable", "--hold", "--output=/dev/null", *options, "--wrap=true"]
    ids: list[str] = []
    try:
        for _ in range(jobs):
            ids.append(_ask(*words).strip().partition(";")[0])
        yield ids
    finally:
        if ids:
            subprocess.run(["scancel", *ids], check=False, capture_output=True, timeout=_LIMIT_S)


def _left(ids: list[str]) -> bool:
    """Whether any of these is alive, by what the controller has of us now."""
    wanted = set(ids)
    return any(job in wanted for job in _ask("squeue", "--me", "-h", "-o", "%F").split())


def _check_cluster() -> None:
    """Raise :class:`NotMeasuredError` where no cluster answers."""
    if shutil.which("sbatch") is None:
        raise NotMeasuredError("no sbatch here")
    _ask("sinfo", "-h")


def _ask(*argv: str) -> str:
    try:
        said = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise NotMeasuredError(f"{argv[0]}: no answer within {_LIMIT_S:g} s") from None
    if said.returncode != 0:
        why = said.stderr.strip() or f"exit status {said.returncode}"
        raise NotMeasuredError(f"no cluster answers here: {why.splitlines()[-1]}")
    return said.stdout
