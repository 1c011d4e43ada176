"""Asks the controller what a user's jobs are doing.

References
----------
squeue(1), ``--format``. Only ``-u`` and ``-j`` are filtered by the controller;
``-j`` fails for ids it has forgotten, so all of the user's jobs are read, and
sorted out here.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from slurm.controller.calls import ASK_TIMEOUT_S, Cluster
from slurm.errors import SlurmError
from slurm.records.states import JobState, job_state

# the name last: it alone may hold anything, the end of a line too: what comes after that does
# not begin as our lines do
_FORMAT = "%A|%F|%K|%T|%V|%w|%j"
_RESTARTS = re.compile(r"\bRestarts=(\d+)")
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
        When the controller took it, by its clock, in s since 1970. With the id it
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


# seconds since 1970: else it is the wall clock of whoever asks, by their time zone
_TIME = {"SLURM_TIME_FORMAT": "%s"}


def jobs_of_user(cluster: Cluster, timeout_s: float = ASK_TIMEOUT_S) -> list[Row]:
    """Read all jobs of the user's that the controller remembers, ended ones too.

    Those in hidden partitions too.

    Raises
    ------
    SlurmError, TransportError
        If nobody could say. No answer never means no jobs.
    """
    begin = secrets.token_hex(4) + "|"
    answer = cluster.ask(
        "squeue", "--all", "--states=all", f"--user={cluster.user}", f"--format={begin}{_FORMAT}",
        variables=_TIME, timeout_s=timeout_s,
    )  # fmt: skip
    # not splitlines(): it takes other characters of a name's too for the end of a line
    lines = [line.removeprefix(begin) for line in answer.stdout.split("\n") if begin in line[:9]]
    # the head is there when there are no jobs too. Without it this is no answer, whatever the exit
    # status: a process that ignores SIGCHLD never learns of any but 0. Nor is it one if it shows
    # nothing and complains: of a user id that has no name there, say, with status 0
    if not lines or (len(lines) == 1 and answer.stderr.strip()):
        said = answer.complaint or "nothing"
        raise SlurmError(cluster.name, "squeue", answer.code, said, transient=True)
    return [row for line in lines[1:] if (row := _row(line)) is not None]


def is_held(cluster: Cluster, job_id: str) -> bool:
    """Whether a job waits for somebody to release it.

    Raises
    ------
    SlurmError, TransportError
        If nobody could say, or the job is not known.
    """
    return " Priority=0 " in cluster.ask("scontrol", "-o", "show", "job", job_id).stdout


def restarts(cluster: Cluster, job_id: str, timeout_s: float = ASK_TIMEOUT_S) -> int:
    """How often the controller has started a job again; each time it counts as submitted anew.

    Raises
    ------
    SlurmError, TransportError
        If nobody could say, or the job is not known.
    """
    said = cluster.ask("scontrol", "-o", "show", "job", job_id, timeout_s=timeout_s).stdout
    found = _RESTARTS.search(said)
    return int(found[1]) if found else 0


def _row(line: str) -> Row | None:
    parts = line.split("|", _FIELDS)
    if len(parts) <= _FIELDS:
        return None
    _, array_id, task, state, submitted_at, wckey, name = parts
    return Row(array_id, "" if task == "N/A" else task, job_state(state), submitted_at, wckey, name)
