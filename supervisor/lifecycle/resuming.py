"""Resuming a run, whatever ended it: only what no journal holds is computed.

Directory, id and journals stay the same. A row does not depend on which worker computes it,
or when, so the results of a run that was killed and resumed, however often, are those of an
uninterrupted one, bit for bit.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.containment.leftovers import end_leftovers
from supervisor.errors import ConfigError, RunBusyError
from supervisor.ipc import control_socket
from supervisor.lifecycle import inputs
from supervisor.lifecycle.checks import (
    LEAST_VRAM_BYTES,
    check_containment,
    check_fee,
    check_vram_limit,
    check_workers,
    default_workers,
)
from supervisor.lifecycle.copies import own_run, set_ledger_aside
from supervisor.lifecycle.finish import PATIENCE_S
from supervisor.lifecycle.gpu.place import Placed, place, refuse_for_function
from supervisor.lifecycle.prepare import (
    Changes,
    Order,
    Prepared,
    check,
    check_platform,
    check_ranking,
)
from supervisor.lifecycle.prepare import prepare as prepare_new
from supervisor.lifecycle.still_ending import await_end
from supervisor.market.bars import Bars
from supervisor.records import registry, rundir
from supervisor.records.claim import Claim, claim_directory
from supervisor.records.command import COMMAND_KEY, checked_plan
from supervisor.records.device import Stack, parse_device
from supervisor.records.environment_snapshot import library_versions
from supervisor.records.events import EventLog
from supervisor.records.home import home_of
from supervisor.records.plan import ALLOCATION, Origin, Plan, Source, StopTimes
from supervisor.records.report import Report, read_report
from supervisor.rows.grid import Grid
from supervisor.rows.index import covered, outstanding
from supervisor.states import RunStatus
from supervisor.system import durable, private
from supervisor.system.silent_disk import wait_until_it_answers

_NO_DEVICES: dict[str, Any] = {"devices": (), "spare_devices": (), "fallback_workers": 0}

_LIBRARIES = {
    Stack.NUMBA: ("allstop", "numpy", "numba"),
    Stack.CUPY: ("allstop", "numpy", "cupy"),
    Stack.TORCH: ("allstop", "numpy", "torch"),
}
"""Libraries that the last bits of a row depend on."""


def prepare(name: str, changes: Changes, *, elsewhere: bool = False) -> Prepared:
    """Prepare to resume a run.

    Parameters
    ----------
    name : str
        The run's id or directory.
    changes : Changes
        What may differ from before.
    elsewhere : bool
        Cluster jobs compute it: its device is looked for there.

    Raises
    ------
    ConfigError
        If it cannot be resumed; the run is left as it was.
    """
    check_platform()
    registry.check()
    run_dir = registry.find_dir(name)
    await_end(run_dir)
    asked = rundir.read_run_file(run_dir)
    plan, _ = own_run(_plan(asked, run_dir), asked, run_dir)
    claim = _claim(run_dir, plan)
    try:
        # read again: no other process can change it from now on
        asked = rundir.read_run_file(run_dir)
        plan, copied = own_run(_plan(asked, run_dir), asked, run_dir)
        notes = ([copied] if copied else []) + _other_versions(asked, plan.stack)
        if not copied:  # processes and jobs that a copy's files tell of are the original's
            notes += _end_leftovers(plan.run_id, run_dir)
            notes += _fetch_from_cluster(run_dir)
        function = inputs.function_again(run_dir, plan, changed_code=changes.changed_code)
        bars = inputs.bars_again(run_dir, plan, notes.append)
        again = _changed(plan, run_dir, changes, notes, elsewhere=elsewhere)
        return _begin(run_dir, asked, again, changes, bars, function, claim, notes)
    except BaseException:
        claim.release()
        raise


def prepare_order(order: Order, changes: Changes, *, elsewhere: bool = False) -> Prepared | Report:
    """Resume the run in ``order.run_dir`` if it is of the same order; begin it if there is none.

    The device may differ. ``elsewhere``: see :func:`prepare`.

    Returns
    -------
    Prepared or Report
        The report of a run that is complete already.

    Raises
    ------
    ConfigError
        If the directory holds a different sweep; names the difference.
    """
    if order.run_dir is None:
        raise ConfigError("--resume needs --run-dir, the directory of the run", key="run_dir")
    if not _holds_run(order.run_dir):
        return prepare_new(order, elsewhere=elsewhere)
    run_dir = rundir.resolve(order.run_dir)
    rundir.check_own(run_dir)
    wanted, bars, _ = check(order)
    there = _plan(rundir.read_run_file(run_dir), run_dir)
    if order.seed is None:  # drawn for this order: the run keeps its own
        wanted = replace(wanted, seed=there.seed)
    difference = _difference(there, wanted) or _other_data(run_dir, there, wanted, bars)
    if difference:
        raise ConfigError(
            f"run directory {run_dir} holds a different sweep: {difference}; "
            "name another directory",
            key="run_dir",
        )
    return complete(run_dir, changes) or prepare(str(run_dir), changes, elsewhere=elsewhere)


def _holds_run(run_dir: Path) -> bool:
    try:
        return (run_dir / rundir.RUN_FILE).exists()
    except OSError as error:
        raise ConfigError(
            f"run directory {run_dir} cannot be read: {error.strerror}", key="run_dir"
        ) from None


def complete(run_dir: Path, changes: Changes) -> Report | None:
    """Return the report of a run that has nothing left to compute; None for any other."""
    plan = _plan(rundir.read_run_file(run_dir), run_dir)
    path = run_dir / rundir.REPORT_FILE
    if not path.exists() or not (run_dir / rundir.RESULTS_FILE).exists():
        return None
    try:
        report = read_report(run_dir)
    except ConfigError:
        return None  # of another version, or damaged: written anew at the end
    space = plan.space
    done = covered(plan.journals(run_dir), space, failed=not changes.retry_failed)
    if outstanding(done, space, plan.span) or report.status is not RunStatus.COMPLETED:
        return None
    report.run_dir = str(run_dir)
    return report


def _claim(run_dir: Path, plan: Plan) -> Claim:
    """Claim a run that no process is working on."""
    registry.check_here(plan.run_id, "resume")
    if control_socket.is_running(plan.run_id):
        raise RunBusyError(
            f"run {plan.run_id} is still running: end it with allstop stop {plan.run_id}"
        )
    wait_until_it_answers(run_dir)  # what is written from now on would keep us from Ctrl+C
    try:
        return claim_directory(run_dir, PATIENCE_S)
    except RunBusyError:
        raise RunBusyError(
            f"run {plan.run_id} is being resumed or finished by another process"
        ) from None


def _changed(
    plan: Plan, run_dir: Path, changes: Changes, notes: list[str], *, elsewhere: bool
) -> Plan:
    """Apply the changes to a plan, and choose its devices anew: they may be other ones here."""
    device = changes.device or plan.device
    asked = parse_device(device)
    refuse_for_function(asked, plan.source)
    code = inputs.code_of(plan)
    on_cpu = default_workers() if plan.devices else plan.workers
    again = replace(
        plan,
        workers=changes.cores or changes.workers or plan.workers_asked or on_cpu,
        workers_asked=changes.workers or plan.workers_asked,
        device=device,
        vram_limit_bytes=changes.vram_limit or plan.vram_limit_bytes,
        times=_fit_into_allocation(replace(plan.times, **changes.times), notes),
        containment=changes.containment or plan.containment,
        provenance=replace(plan.provenance, code=code),
        resumed=plan.resumed + 1,
        ranking=changes.ranking(plan.ranking),
    )
    check_ranking(again.ranking, again.source)
    done = _finished(again, run_dir, changes)
    left = max(0, again.combos_total - done)
    if not left:  # its rows are what they are: nothing is computed, on whatever device
        return replace(again, **_NO_DEVICES)
    if elsewhere:
        stack = asked.stack or Stack.NUMBA
        placed = Placed(replace(again, stack=stack, device_why="", **_NO_DEVICES))
    else:
        placed = place(again, left, again.workers)
    if done and plan.source is Source.BUILT_IN:
        _refuse_mixture(plan, placed.plan, done)
    notes += placed.notes
    return placed.plan


def _refuse_mixture(there: Plan, wanted: Plan, done: int) -> None:
    """Refuse to compute the rest of a sweep on a stack whose rows differ in their last bits.

    A resumed run equals an uninterrupted one bit for bit, and sorting or a threshold may
    depend on the last bit.
    """
    if there.stack.exact == wanted.stack.exact:
        return
    name = {True: "Numba and CuPy", False: "PyTorch"}
    raise ConfigError(
        f"run {there.run_id} has {done:,} rows computed by {name[there.stack.exact]}, which "
        f"{name[wanted.stack.exact]} equals to 1e-9 only, not bit for bit: resume it with "
        f"--device {'cpu or cuda' if there.stack.exact else 'torch'}, or start a new run",
        key="device",
    )


def _finished(plan: Plan, run_dir: Path, changes: Changes) -> int:
    """Combinations that the journals hold."""
    space = plan.space
    done = covered(plan.journals(run_dir), space, failed=not changes.retry_failed)
    return space.count_all(done)


def _begin(
    run_dir: Path,
    asked: dict[str, Any],
    plan: Plan,
    changes: Changes,
    bars: Bars,
    function: bytes | None,
    claim: Claim,
    notes: list[str],
) -> Prepared:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for name in (rundir.JOURNAL_DIR, rundir.LOG_DIR):
        private.make_directory(run_dir / name)
    before = asked.get("resumed_at")
    history = [*(before if isinstance(before, list) else []), now]
    again = asked | plan.to_json() | {"resumed_at": history} | home_of(run_dir)
    if plan.run_id != asked["run_id"]:
        set_ledger_aside(run_dir, asked["run_id"])
    durable.write_json(run_dir / rundir.RUN_FILE, again, named=False)
    # if we die now, the process that finishes this attempt must not report the earlier one
    events = EventLog(run_dir, "front")
    events.emit("resume_begun", resumed=plan.resumed)
    events.close()
    # a report says that its run has ended: the earlier one must not be taken for this attempt's
    report = run_dir / rundir.REPORT_FILE
    if report.exists():
        report.replace(run_dir / f"report-{plan.resumed}.json")
    registry.socket_path(plan.run_id).unlink(missing_ok=True)  # a killed warden's
    return Prepared(
        plan,
        run_dir,
        bars,
        function,
        claim,
        retry_failed=changes.retry_failed,
        finished=_finished(plan, run_dir, changes),
        notes=tuple(notes),
    )


def _fit_into_allocation(times: StopTimes, notes: list[str]) -> StopTimes:
    """Shorten an escalation inside a SLURM job, so that it ends before the cluster kills."""
    if ALLOCATION not in os.environ:
        return times
    from slurm.allocation import fit

    fitting, note = fit(times)
    notes += [note] if note else []
    return fitting


def _plan(asked: dict[str, Any], run_dir: Path) -> Plan:
    if COMMAND_KEY in asked:
        raise ConfigError(
            f"run {asked.get('run_id')} supervises a command, which cannot be resumed: "
            "start it again",
            key="run",
        )
    file = run_dir / rundir.RUN_FILE
    plan = checked_plan(asked, file)
    if not isinstance(plan, Plan):
        raise ConfigError(f"{file}: not the plan of a sweep")
    try:
        return _checked(plan)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}", key=error.key) from None


def _checked(plan: Plan) -> Plan:
    """Hold a plan that was read to the limits of one that is asked for."""
    check_workers(plan.workers)
    check_workers(plan.workers_asked or 1)
    check_workers(plan.fallback_workers or 1)
    check_fee(plan.fee)
    check_vram_limit(plan.vram_limit_bytes or LEAST_VRAM_BYTES)
    check_containment(plan.containment)
    return plan


def _other_versions(asked: dict[str, Any], stack: Stack) -> list[str]:
    """Name the libraries whose versions differ from when the run began."""
    then, now = asked.get("versions"), library_versions()
    if not isinstance(then, dict):
        return []
    return [
        f"the run began with {name} {then[name]} and is resumed with {now[name]}: "
        "rows may differ in their last bits"
        for name in _LIBRARIES[stack]
        if name in then and name in now and then[name] != now[name]
    ]


def _end_leftovers(run_id: str, run_dir: Path) -> list[str]:
    """End what an earlier attempt left: ``reap`` does not look for it once this one has ended."""
    killed, survivors = end_leftovers(run_id, run_dir)
    return [f"left by an earlier attempt, killed: {name}" for name in killed] + [
        f"left by an earlier attempt, could not be killed: {name}" for name in survivors
    ]


def _fetch_from_cluster(run_dir: Path) -> list[str]:
    """Fetch what the run's cluster jobs have written; none of them may be running."""
    ledger = run_dir / rundir.LEDGER_FILE
    if not ledger.exists():
        return []
    from slurm.client import alive_jobs
    from supervisor.lifecycle.staging import fetch_what_is_left

    alive = alive_jobs(ledger)
    if alive:
        raise RunBusyError(
            f"job {', '.join(alive)} of this run is still on the cluster: wait for it, or "
            f"end it with allstop jobs {run_dir} --cancel"
        )
    return fetch_what_is_left(run_dir)


def _difference(there: Plan, wanted: Plan) -> str:
    for key in ("strategy", "source", "fee", "seed"):
        old, new = getattr(there, key), getattr(wanted, key)
        if old != new:
            return f"its {key} is {old}, not {new}"
    old, new = there.data_facts.bars_per_year, wanted.data_facts.bars_per_year
    if old not in (None, new):
        return f"it has {old:,.6g} bars a year, not {new:,.6g}"
    return _grid_difference(there.grid, wanted.grid)


def _grid_difference(there: Grid, wanted: Grid) -> str:
    if there.names != wanted.names:
        return f"its grid is over {', '.join(there.names)}, not {', '.join(wanted.names)}"
    for name, old, new in zip(there.names, there.axes, wanted.axes, strict=True):
        same = there.exact.get(name) == wanted.exact.get(name)
        if old.dtype != new.dtype or old.tolist() != new.tolist() or not same:
            return f"its grid has other values of {name} ({_shown(old)}, not {_shown(new)})"
    if there.points_to_json() != wanted.points_to_json():
        return "its grid has other points"
    return ""


def _shown(axis: Any) -> str:
    values = axis.tolist()
    many = f"{values[0]} … {values[-1]}, {len(values)} of them"
    return many if len(values) > 3 else ", ".join(map(str, values))


def _other_data(run_dir: Path, there: Plan, wanted: Plan, bars: Bars) -> str:
    digest = inputs.known_digest(run_dir)
    if digest is not None:
        return "" if bars.digest() == digest else f"its data ({there.data}) is not {wanted.data}"
    same = (there.provenance.origin, there.provenance.path) == (
        wanted.provenance.origin, wanted.provenance.path,
    )  # fmt: skip
    if same and there.provenance.origin is not Origin.MEMORY:
        return ""
    return f"its data is {there.data}, not {wanted.data}"
