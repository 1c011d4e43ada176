"""Inside a SLURM job: fits the escalation between the cluster's SIGTERM and its SIGKILL.

References
----------
slurm.conf(5), ``KillWait``: at the time limit, at a cancel and at a preemption a
job gets SIGCONT and SIGTERM, and SIGKILL ``KillWait`` seconds later.
"""

from __future__ import annotations

import re

from slurm.controller.calls import Cluster
from slurm.local import LocalTransport
from supervisor.errors import AllstopError
from supervisor.records.plan import StopTimes

_KILL_WAIT = re.compile(r"^KillWait\s*=\s*(\d+)", re.MULTILINE)
_ASK_S = 5.0
_SPARE = 0.25
"""Part of the time that is reserved for results and report."""


def kill_wait_s() -> float | None:
    """Ask the controller for its KillWait, in s; None if it does not answer."""
    try:
        answer = Cluster(LocalTransport()).ask("scontrol", "show", "config", timeout_s=_ASK_S)
    except AllstopError:
        return None
    found = _KILL_WAIT.search(answer.stdout)
    return float(found[1]) if found else None


def fit(times: StopTimes) -> tuple[StopTimes, str | None]:
    """Shorten an escalation so that it ends before the cluster sends SIGKILL.

    Returns
    -------
    times : StopTimes
        As given, or shortened in proportion.
    note : str or None
        What was shortened, for the report; None: nothing.
    """
    wait_s = kill_wait_s()
    wanted_s = times.grace_s + times.terminate_s
    if wait_s is None or wanted_s <= wait_s * (1 - _SPARE):
        return times, None
    scale = wait_s * (1 - _SPARE) / wanted_s
    fitting = StopTimes(
        round(times.grace_s * scale, 3), round(times.terminate_s * scale, 3), times.verify_s
    )
    return fitting, (
        f"the cluster sends SIGKILL {wait_s:g} s after SIGTERM (KillWait): grace shortened from "
        f"{times.grace_s:g} to {fitting.grace_s:g} s, terminate from {times.terminate_s:g} to "
        f"{fitting.terminate_s:g} s"
    )
