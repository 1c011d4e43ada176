"""A run inside a SLURM job: the cluster limits how long a stop may take."""

from __future__ import annotations

import os

from supervisor.cli import output
from supervisor.records.plan import ALLOCATION, StopTimes


def fit_into_allocation(times: StopTimes) -> StopTimes:
    """Shorten an escalation so that it ends before the cluster kills; outside a job, as it is."""
    if ALLOCATION not in os.environ:
        return times
    from slurm.allocation import fit

    fitting, note = fit(times)
    if note:
        output.complain(f"allstop: {note}")
    return fitting
