"""``stop``: end a run from anywhere, and return when that was verified."""

from __future__ import annotations

import json
import socket
import time
from typing import Annotated, Any

import typer

from supervisor import control, control_socket, registry, rundir
from supervisor.errors import ConfigError, RunFailedError
from supervisor.registry import Entry
from supervisor.states import ExitCode
from supervisor.stopflag import Level

_POLL_S = 0.01
_MARGIN_S = 5.0


def stop(
    run: Annotated[
        str | None,
        typer.Argument(help="A run's id or directory; may be left out if only one runs."),
    ] = None,
    stop_all: Annotated[bool, typer.Option("--all", help="Stop every running run.")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Finish the chunks in hand.")] = False,
    now: Annotated[bool, typer.Option("--now", help="SIGKILL at once.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was seen as JSON.")] = False,
) -> int:
    """Stop a run. Exit code 0: all gone; 3: not."""
    if drain and now:
        raise ConfigError("--drain and --now contradict each other: give one")
    level = Level.DRAIN if drain else Level.KILL if now else Level.STOP
    if stop_all:
        if run is not None:
            raise ConfigError("--all and a run's name contradict each other: give one")
        entries = [entry for entry in registry.entries() if entry.alive]
    else:
        entries = [registry.find_running(run)]
    calls = [(entry, _ask(entry, level)) for entry in entries]
    outcomes = [_see_gone(entry, line, patient=drain) for entry, line in calls]
    for outcome in outcomes:
        if as_json:
            continue
        gone = f"gone after {outcome['elapsed_s']:.2f} s" if outcome["gone"] else "NOT gone"
        print(f"{outcome['run_id']}: {gone}")
        for survivor in outcome["survivors"]:
            print(f"  survivor: {survivor}")
    if as_json:
        print(json.dumps({"stopped": outcomes}))
    elif not outcomes:
        print("no run is running")
    return ExitCode.DONE if all(o["gone"] for o in outcomes) else ExitCode.INCOMPLETE


def _ask(entry: Entry, level: Level) -> socket.socket:
    line = control_socket.connect(entry.run_id)
    if line is None:
        raise RunFailedError(
            f"run {entry.run_id}: its warden (pid {entry.warden.pid}) does not answer; "
            f"end the run by its front: kill {entry.front.pid}"
        )
    control.send(line, control.RequestStop(int(level), "asked by the stop command"))
    return line


def _see_gone(entry: Entry, line: socket.socket, *, patient: bool) -> dict[str, Any]:
    """Wait for the warden's word, then for the report; ``patient``: a chunk in hand takes long."""
    began = time.monotonic()
    times = rundir.read_json(entry.run_dir / rundir.RUN_FILE).get("times", {})
    deadline = None if patient else began + sum(times.values()) + _MARGIN_S
    ended = _hear_end(line, deadline)
    survivors = list(ended.survivors) if ended else ["the warden did not confirm the end"]
    written = entry.run_dir / rundir.REPORT_FILE
    while entry.front.alive and not written.exists() and not _over(deadline):
        time.sleep(_POLL_S)
    return {
        "run_id": entry.run_id,
        "gone": ended is not None and not survivors,
        "survivors": survivors,
        "elapsed_s": round(time.monotonic() - began, 3),
    }


def _hear_end(line: socket.socket, deadline: float | None) -> control.RunEnded | None:
    with line:
        while not _over(deadline):
            line.settimeout(None if deadline is None else max(_POLL_S, deadline - time.monotonic()))
            try:
                message, _ = control.receive(line)
            except TimeoutError:
                return None
            if message is None or isinstance(message, control.RunEnded):
                return message
    return None


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
