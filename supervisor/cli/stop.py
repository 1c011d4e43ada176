"""``stop``: end a run from anywhere, and return when its end was confirmed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from supervisor.cli import output
from supervisor.errors import ConfigError
from supervisor.ipc.stopflag import Level
from supervisor.lifecycle.caches import purge_caches
from supervisor.lifecycle.stop import Outcome, stop_runs
from supervisor.records import registry
from supervisor.records.registry import Entry
from supervisor.states import ExitCode


def stop(
    run: Annotated[
        str | None,
        typer.Argument(help="Id or directory of a run; optional if only one is running."),
    ] = None,
    stop_all: Annotated[bool, typer.Option("--all", help="Stop every running run.")] = False,
    drain: Annotated[
        bool, typer.Option("--drain", help="Finish the chunks that workers compute now.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Send SIGKILL at once.")] = False,
    purge_cache: Annotated[
        bool, typer.Option("--purge-cache", help="Also delete cached bars and indicators.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> int:
    """Stop a run, and return when its end was confirmed.

    Exit code 0: no process and no cluster job is left; 3: survivors are listed.
    """
    level = _level(drain=drain, now=now)
    outcomes = stop_runs(_asked_for(run, stop_all=stop_all, may_be_none=purge_cache), level)
    purged = purge_caches() if purge_cache else None
    if as_json:
        seen: dict[str, Any] = {"stopped": [outcome.to_json() for outcome in outcomes]}
        output.show_json(seen if purged is None else seen | {"purged_bytes": purged})
    else:
        _show(outcomes)
        if purged is not None:
            output.show(f"caches purged: {purged / 2**20:,.1f} MB freed")
    return ExitCode.DONE if all(outcome.gone for outcome in outcomes) else ExitCode.INCOMPLETE


def _level(*, drain: bool, now: bool) -> Level:
    if drain and now:
        raise ConfigError("--drain and --now contradict each other: give one")
    return Level.DRAIN if drain else Level.KILL if now else Level.STOP


def _asked_for(name: str | None, *, stop_all: bool, may_be_none: bool) -> list[Entry]:
    if stop_all:
        if name is not None:
            raise ConfigError("--all and a run's name contradict each other: give one")
        return registry.living()
    if name is None and may_be_none and not registry.living():
        return []
    return [registry.find_running(name)]


def _show(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        for line in outcome.escalated:
            output.show(f"{outcome.run_id}: {line}")
        gone = f"gone after {outcome.elapsed_s:.2f} s" if outcome.gone else "NOT gone"
        output.show(f"{outcome.run_id}: {gone}")
        for survivor in outcome.survivors:
            output.show(f"  survivor: {survivor}")
        if outcome.note:
            output.show(f"  {outcome.note}: results and report may be written later")
    if not outcomes:
        output.show("no run is running")
