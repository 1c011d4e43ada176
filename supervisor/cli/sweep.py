"""A sweep as the command line carries it out, for ``run`` and ``resume``."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.cli import show
from supervisor.errors import ConfigError
from supervisor.front.link import take_warden
from supervisor.front.run import Front
from supervisor.front.signals import SignalQueue
from supervisor.front.sweep import SweepFront
from supervisor.lifecycle.prepare import Changes, Order, Prepared, prepare
from supervisor.records.plan import StopTimes
from supervisor.rows.grid import Value, parse_axis
from supervisor.states import ExitCode

if TYPE_CHECKING:
    from supervisor.front.cluster import ClusterOrder


def order(
    spec: Path | None, given: Mapping[str, Any], grid: list[str], times: dict[str, float]
) -> tuple[Order, dict[str, float]]:
    """Put an order together: the options that were given come before what the file says.

    Returns
    -------
    order : Order
        What is asked for.
    times : dict
        The timers that were set, by the names of :class:`~supervisor.records.plan.StopTimes`.
    """
    asked, set_times = _from_spec(spec)
    for name, value in given.items():
        if value is not None:
            setattr(asked, name, value)
    if grid:
        asked.grid = _axes(grid)
    if asked.strategy is None and (asked.grid or asked.data):
        raise ConfigError("which strategy? give --strategy NAME or module:function", key="strategy")
    set_times |= times
    asked.times = StopTimes(**set_times)
    return asked, set_times


def cluster_order(order: Order, given: Mapping[str, Any], *, slurm: bool) -> ClusterOrder | None:
    """Put together how a sweep is spread over a cluster; None: it is computed here.

    Parameters
    ----------
    order : Order
        What is asked for; a spec file may have a section for the cluster.
    given : dict
        Options that were given, by the names of
        :class:`~supervisor.front.cluster.ClusterOrder`; they come before the file's.
    slurm : bool
        Whether a cluster is asked for, with or without options.
    """
    set_here = {name: value for name, value in given.items() if value is not None}
    if not (slurm or set_here or order.cluster):
        return None
    from supervisor.front.cluster import ClusterOrder

    asked = dict(order.cluster or {})
    if "job" in set_here:
        set_here["job"] = dict(asked.get("job", {})) | job_options(set_here["job"])
    return ClusterOrder(**(asked | set_here))


def job_options(texts: list[str]) -> dict[str, Any]:
    """Read ``--job KEY=VALUE``; repeated keys that take several values are gathered."""
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--job {text!r}: write KEY=VALUE: cpus=8", key="job")
        if key in ("options", "setup"):
            options.setdefault(key, []).append(value)
        elif key in ("cpus", "tasks"):
            options[key] = int(value) if value.isdecimal() else value
        else:
            options[key] = value
    return options


def run(
    order: Order,
    times: dict[str, float],
    *,
    resume: bool,
    as_json: bool,
    cluster: ClusterOrder | None = None,
) -> int:
    """Carry an order out, or on; return the exit code."""
    if resume:
        return _resume(order, times, as_json=as_json, cluster=cluster)
    # until here Ctrl+C simply ends the process: nothing was begun
    return carry_out(prepare(order), as_json=as_json, cluster=cluster)


def carry_out(prepared: Prepared, *, as_json: bool, cluster: ClusterOrder | None = None) -> int:
    """Carry a prepared run out, here or on a cluster, show it, and return its exit code."""
    with SignalQueue() as signals:
        where = f"{cluster.tasks} shards on {cluster.address}" if cluster else ""
        screen = show.Screen(prepared, where=where, quiet=as_json)
        front = _front(prepared, cluster)
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


def _front(prepared: Prepared, cluster: ClusterOrder | None) -> Front:
    if cluster is None:
        link = take_warden(containment=prepared.plan.containment)
        return SweepFront(prepared, link, keep_warden=False)
    from supervisor.front.cluster import ClusterFront

    # a guard over nothing needs none of the libraries that compute
    return ClusterFront(prepared, take_warden(None, prepared.plan.containment), cluster)


def _resume(
    order: Order, times: dict[str, float], *, as_json: bool, cluster: ClusterOrder | None
) -> int:
    from supervisor.cli.resume import say_complete
    from supervisor.lifecycle.resuming import prepare_order

    found = prepare_order(order, Changes(order.workers, times))
    if isinstance(found, Prepared):
        return carry_out(found, as_json=as_json, cluster=cluster)
    return say_complete(found, Path(found.run_dir), as_json=as_json)


def _from_spec(path: Path | None) -> tuple[Order, dict[str, float]]:
    if path is None:
        return Order(), {}
    from supervisor.lifecycle.spec import read_spec

    return read_spec(path)


def _axes(texts: list[str]) -> dict[str, Sequence[Value]]:
    axes: dict[str, Sequence[Value]] = {}
    for text in texts:
        name, values = parse_axis(text)
        if name in axes:
            raise ConfigError(f"--grid names {name!r} twice", key="grid")
        axes[name] = values
    return axes
