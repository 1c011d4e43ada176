"""Waiting for a run whose front was killed and that its warden is still ending, or finishing."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from pathlib import Path

from supervisor.errors import ConfigError
from supervisor.records import registry, rundir
from supervisor.records.plan import StopTimes, margin_s
from supervisor.records.registry import Entry
from supervisor.system.shape import ShapeError, read_as

_LOOK_EVERY_S = 0.02
_WRITES_S = 60.0  # for results and report, when all processes are gone


def await_end(run_dir: Path, say: Callable[[str], object] = bool) -> None:
    """Wait, for a bounded time, until the run in a directory has ended and is finished.

    Only for a run whose front is dead: its warden ends it, and becomes the process that writes
    results and report. For every other run this returns at once.

    Parameters
    ----------
    run_dir : Path
        The run's directory.
    say : callable
        Receives one line that says what is waited for.
    """
    try:
        asked = rundir.read_run_file(run_dir)
        run_id = str(asked["run_id"])
    except (ConfigError, KeyError):
        return  # what follows says what is wrong
    deadline = time.monotonic() + _longest_s(asked.get("times")) + _WRITES_S
    said = False
    while _is_ending(registry.find(run_id)) and time.monotonic() < deadline:
        if not said:
            say(
                f"waiting for run {run_id}: its front was killed, and its warden is still ending it"
            )
            said = True
        select.select([], [], [], _LOOK_EVERY_S)


def _is_ending(entry: Entry | None) -> bool:
    return (
        entry is not None
        and not (entry.over or entry.front.alive or entry.front.elsewhere)
        and entry.warden.alive
    )


def _longest_s(times: object) -> float:
    with contextlib.suppress(ConfigError, ShapeError):
        return read_as(StopTimes, times).longest_s
    return margin_s()
