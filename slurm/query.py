"""Asks the controller what a user's jobs are doing.

References
----------
squeue(1), ``--format``. Only ``-u`` and ``-j`` are filtered by the controller;
``-j`` fails for ids it has forgotten, so all of the user's jobs are read, and
sorted out here.
"""

from __future__ import annotations

from typing import NamedTuple

from slurm.calls import ASK_TIMEOUT_S, Cluster
from slurm.states import JobState, job_state

# the name last: it alone may hold anything
_FORMAT = "%A|%F|%K|%T|%V|%w|%j"
_FIELDS = _FORMAT.count("|")


class Row(NamedTuple):
    """A job, or those tasks of an array that the controller still holds as one.

    Attributes
    ----------
    job_id : str
        Its id; that of the whole array for a task of one.
    task : str
        Index or indices in the array, empty if it is none.
    state : JobState
        What it is doing.
    submitted_at : str
        When the controller took it, in the controller's words. With the id it
        makes an identity: a controller that crashed hands ids out again.
    wckey, name : str
        By which it is known whose it is.
    """

    job_id: str
    task: str
    state: JobState
    submitted_at: str
    wckey: str
    name: str


def jobs_of_user(cluster: Cluster, timeout_s: float = ASK_TIMEOUT_S) -> list[Row]:
    """Read all jobs of the user's that the controller remembers, ended ones too.

    Raises
    ------
    SlurmError, TransportError
        If nobody could say. No answer never means no jobs.
    """
    answer = cluster.ask(
        "squeue", "--noheader", "--states=all", f"--user={cluster.user}", f"--format={_FORMAT}",
        timeout_s=timeout_s,
    )  # fmt: skip
    return [row for line in answer.stdout.splitlines() if (row := _row(line)) is not None]


def _row(line: str) -> Row | None:
    parts = line.split("|", _FIELDS)
    if len(parts) <= _FIELDS:
        return None
    _, array_id, task, state, submitted_at, wckey, name = parts
    return Row(array_id, "" if task == "N/A" else task, job_state(state), submitted_at, wckey, name)
