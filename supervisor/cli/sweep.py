"""A sweep from the command line, for ``run``, ``resume`` and the shards of a cluster."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.cli import output, show
from supervisor.cli.allocation import fit_into_allocation
from supervisor.cli.leaving import end_of
from supervisor.errors import ConfigError
from supervisor.front.link import take_warden
from supervisor.front.run import Front
from supervisor.front.signals import SignalQueue
from supervisor.front.sweep import sweep_front
from supervisor.lifecycle import options
from supervisor.lifecycle.options import Given
from supervisor.lifecycle.prepare import Changes, Order, Prepared, nothing_left, prepare

if TYPE_CHECKING:
    from supervisor.lifecycle.spread import ClusterOrder


def read_options(spec: Path | None, typed: Mapping[str, Any]) -> Given:
    """Read a spec file and the command line's options, which replace what the file says.

    Raises
    ------
    ConfigError
        If one of them cannot be used, or a sweep has no strategy.
    """
    given = options.from_command_line(typed)
    if spec is not None:
        from supervisor.lifecycle.spec import read_spec

        written = read_spec(spec)
        if "job" in given and "job" in written:
            given["job"] = written["job"] | given["job"]
        given = written | given
    if "strategy" not in given and ("grid" in given or "data" in given):
        raise ConfigError("which strategy? give --strategy NAME or module:function", key="strategy")
    return given


def run(given: Given, *, as_json: bool) -> int:
    """Run the sweep that the options ask for, or resume it; return the exit code."""
    order = Order.of(given)
    order = replace(order, times=fit_into_allocation(order.times))
    cluster = _cluster_order(given)
    if given.get("resume"):
        return _resume(order, Changes.of(given), as_json=as_json, cluster=cluster)
    # until here Ctrl+C simply ends the process: nothing was started
    prepared = prepare(order, elsewhere=cluster is not None)
    return run_prepared(prepared, as_json=as_json, cluster=cluster)


def run_prepared(prepared: Prepared, *, as_json: bool, cluster: ClusterOrder | None = None) -> int:
    """Run what was prepared, here or on a cluster; show it, and return how the process ends."""
    unbegun = nothing_left(prepared.run_dir, resumed=prepared.plan.resumed)
    with unbegun, SignalQueue() as signals:
        where = f"{cluster.tasks} shards on {cluster.address}" if cluster else ""
        screen = show.Screen(prepared, where=where, quiet=as_json)
        front = _front(prepared, cluster)
        gc.freeze()  # what is loaded stays
        gc.enable()
        report = front.run(signals=signals, on_tick=screen.tick, say=screen.say)
        screen.end()
    if report.usage:
        raise ConfigError(report.reason)
    with output.if_possible():
        if as_json:
            output.show_json(report.to_json())
        else:
            # asked only of a disk that answers: the directory may have become unreadable meanwhile
            there = not front.left_to and os.access(prepared.run_dir, os.R_OK | os.X_OK)
            show.summary(report, prepared.plan, on_disk=there)
    return end_of(report)


def _cluster_order(given: Given) -> ClusterOrder | None:
    if not options.on_cluster(given):
        return None
    from supervisor.lifecycle.spread import ClusterOrder

    return ClusterOrder.of(given)


def _front(prepared: Prepared, cluster: ClusterOrder | None) -> Front:
    if cluster is None:
        link = take_warden(containment=prepared.plan.containment)
        return sweep_front(prepared, link, keep_warden=False)
    from supervisor.front.cluster import cluster_front

    # this warden runs no worker: it loads no numeric library
    return cluster_front(prepared, take_warden(None, prepared.plan.containment), cluster)


def _resume(order: Order, changes: Changes, *, as_json: bool, cluster: ClusterOrder | None) -> int:
    from supervisor.lifecycle.resuming import prepare_order
    from supervisor.lifecycle.still_ending import await_end

    if order.run_dir is not None:
        await_end(order.run_dir, show.tell)
    found = prepare_order(order, changes, elsewhere=cluster is not None)
    if isinstance(found, Prepared):
        return run_prepared(found, as_json=as_json, cluster=cluster)
    return show.say_complete(found, Path(found.run_dir), as_json=as_json)
