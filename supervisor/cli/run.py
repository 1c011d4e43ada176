"""``run``: a sweep from data to results, or any command; or to a stop with nothing lost.

Only the options are here: what carries out the one or the other is loaded when it is
known which.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli.beside import Beside
from supervisor.records.plan import ALLOCATION, StopTimes


def run(
    context: typer.Context,
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
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Compute the sweep on a SLURM cluster.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(help="local or ssh:HOST; implies --slurm.", show_default="local")
    ] = None,
    tasks: Annotated[
        int | None, typer.Option(help="Parts of a sweep on a cluster.", show_default="4")
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(help="What each of them needs: time_limit=2:00:00, cpus=8, memory=4G …"),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(help="Interpreter on the cluster that has allstop.", show_default="this one"),
    ] = None,
    lease: Annotated[
        int | None,
        typer.Option(
            help="Seconds of our silence after which jobs end themselves; 0: never.",
            show_default="300",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Let its cluster jobs outlive the run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> int:
    """Run a sweep; with no argument, an embedded example. Or, with -- CMD ARG…, any command.

    Ctrl+C stops it, keeping every finished result; a second Ctrl+C kills.
    """
    beside: Beside = context.obj
    if beside.command is not None:
        from supervisor.cli.command import prepare_command, refuse_sweep_options, supervise

        refuse_sweep_options(context.params)
        wait = _fitting(StopTimes(**_times(grace, terminate, verify)))
        return supervise(
            prepare_command(beside.command, wait, run_dir, containment or "auto"),
            closed=beside.closed,
            detach=detach,
            as_json=as_json,
        )
    from supervisor.cli import sweep

    given = {
        "data": data, "strategy": strategy, "workers": workers, "device": device, "fee": fee,
        "run_dir": run_dir, "containment": containment,
    }  # fmt: skip
    order, times = sweep.order(spec, given, grid or [], _times(grace, terminate, verify))
    order.times = _fitting(order.times)
    spread = {
        "address": cluster, "tasks": tasks, "job": job, "lease_s": lease, "detach": detach or None,
        "python": python,
    }  # fmt: skip
    on_cluster = sweep.cluster_order(order, spread, slurm=slurm)
    return sweep.run(order, times, resume=resume, as_json=as_json, cluster=on_cluster)


def _fitting(times: StopTimes) -> StopTimes:
    """Inside a cluster's job the escalation has to end before the cluster kills."""
    if ALLOCATION not in os.environ:
        return times
    from slurm.allocation import fit

    fitting, note = fit(times)
    if note:
        print(f"allstop: {note}", file=sys.stderr)
    return fitting


def _times(grace: float | None, terminate: float | None, verify: float | None) -> dict[str, float]:
    given = {"grace_s": grace, "terminate_s": terminate, "verify_s": verify}
    return {name: value for name, value in given.items() if value is not None}
