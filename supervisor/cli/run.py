"""``run``: a sweep from data to results, or to a stop with nothing lost."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli import show
from supervisor.config import StopTimes
from supervisor.errors import ConfigError
from supervisor.front import Front
from supervisor.grid import Value, parse_axis
from supervisor.link import take_warden
from supervisor.prepare import Changes, Order, Prepared, prepare
from supervisor.signals import SignalQueue
from supervisor.states import ExitCode


def run(
    spec: Annotated[
        Path | None, typer.Argument(help="TOML file with the keys below.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="OHLCV bars, .csv or .parquet.", show_default="an example")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="Built-in name, module:function or path.py:function."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="name=start:stop:step or name=a,b,c; once per parameter."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes.", show_default="one per core")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto or cpu.", show_default="auto")] = None,
    fee: Annotated[
        float | None, typer.Option(help="Fee per fill, a fraction.", show_default="0.0005")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds from flag to SIGTERM.", show_default="2")
    ] = None,
    terminate: Annotated[
        float | None, typer.Option(help="Seconds from SIGTERM to SIGKILL.", show_default="1")
    ] = None,
    verify: Annotated[
        float | None, typer.Option(help="Seconds from SIGKILL to giving up.", show_default="10")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory of the run.", show_default="runs/<run id>")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Carry on what --run-dir holds, if it is this order.")
    ] = False,
    containment: Annotated[
        str | None,
        typer.Option(help="auto, pid-namespace, cgroup or subreaper.", show_default="auto"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> int:
    """Run a sweep; with no argument, an embedded example.

    Ctrl+C stops it, keeping every finished result; a second Ctrl+C kills.
    """
    order, times = _from_spec(spec)
    for name, given in (("data", data), ("strategy", strategy), ("workers", workers),
                        ("device", device), ("fee", fee), ("run_dir", run_dir),
                        ("containment", containment)):  # fmt: skip
        if given is not None:
            setattr(order, name, given)
    if grid:
        order.grid = _axes(grid)
    if order.strategy is None and (order.grid or order.data):
        raise ConfigError("which strategy? give --strategy NAME or module:function", key="strategy")
    for name, given in (("grace_s", grace), ("terminate_s", terminate), ("verify_s", verify)):
        if given is not None:
            times[name] = given
    order.times = StopTimes(**times)
    if resume:
        return _resume(order, times, as_json=as_json)
    # until here Ctrl+C simply ends the process: nothing was begun
    return carry_out(prepare(order), as_json=as_json)


def carry_out(prepared: Prepared, *, as_json: bool) -> int:
    """Carry a prepared run out, show it, and return its exit code."""
    with SignalQueue() as signals:
        screen = show.Screen(prepared, quiet=as_json)
        link = take_warden(containment=prepared.plan.containment)
        front = Front(prepared, link, keep_warden=False)
        gc.freeze()  # what is loaded stays
        gc.enable()
        report = front.run(signals=signals, on_tick=screen.tick, say=screen.say)
        screen.end()
    if report.exit_code == ExitCode.USAGE:
        raise ConfigError(report.reason)
    if as_json:
        print(json.dumps(report.to_json(), default=str))
    else:
        show.summary(report, prepared.plan)
    return report.exit_code


def _resume(order: Order, times: dict[str, float], *, as_json: bool) -> int:
    from supervisor.cli.resume import say_complete
    from supervisor.resuming import prepare_order

    found = prepare_order(order, Changes(order.workers, times))
    if isinstance(found, Prepared):
        return carry_out(found, as_json=as_json)
    return say_complete(found, Path(found.run_dir), as_json=as_json)


def _from_spec(path: Path | None) -> tuple[Order, dict[str, float]]:
    if path is None:
        return Order(), {}
    from supervisor.spec import read_spec

    return read_spec(path)


def _axes(texts: list[str]) -> dict[str, Sequence[Value]]:
    axes: dict[str, Sequence[Value]] = {}
    for text in texts:
        name, values = parse_axis(text)
        if name in axes:
            raise ConfigError(f"--grid names {name!r} twice", key="grid")
        axes[name] = values
    return axes
