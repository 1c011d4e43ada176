"""Asks the controller for the states of a user's jobs.

References
----------
squeue(1), ``--format``. The controller filters by ``-u`` and ``-j`` only, and ``-j``
fails for ids that it has forgotten; so all jobs of the user are read and filtered here.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from slurm.controller.calls import ASK_TIMEOUT_S, Cluster
from slurm.errors import SlurmError
from slurm.records.states import JobState, job_state

# the name last: it may hold any character, a newline, too; the rest of such a name does not
# start with the mark that each of our lines starts with
_FORMAT = "%A|%F|%K|%T|%V|%w|%j"
_RESTARTS = re.compile(r"\bRestarts=(\d+)")
_FIELDS = _FORMAT.count("|")


class Row(NamedTuple):
    """A job, or those tasks of an array that the controller still shows as one.

    Attributes
    ----------
    job_id : str
        Its id; for a task, that of the whole array.
    task : str
        Index or indices in the array; empty: it is not an array.
    state : JobState
        Its state.
    submitted_at : str
        Time of submission by the controller's clock, in s since 1970. Together with the id
        it is an identity: a controller that crashed may reuse ids.
    wckey, name : str
        By which its owner is recognised, see :func:`slurm.records.tokens.bears`.
    """

    job_id: str
    task: str
    state: JobState
    submitted_at: str
    wckey: str
    name: str


# in s since 1970, rather than local time in the caller's time zone
_TIME = {"SLURM_TIME_FORMAT": "%s"}


def jobs_of_user(cluster: Cluster, timeout_s: float = ASK_TIMEOUT_S) -> list[Row]:
    """Read all jobs of the user that the controller remembers.

    Ended ones and those in hidden partitions are included.

    Raises
    ------
    SlurmError, TransportError
        If there was no answer, which never means that there are no jobs.
    """
    begin = secrets.token_hex(4) + "|"
    answer = cluster.ask(
        "squeue", "--all", "--states=all", f"--user={cluster.user}", f"--format={begin}{_FORMAT}",
        variables=_TIME, timeout_s=timeout_s,
    )  # fmt: skip
    # not splitlines(): that would also split at other characters a name may hold
    lines = [line.removeprefix(begin) for line in answer.stdout.split("\n") if begin in line[:9]]
    # the header is there even if there are no jobs. Output without it is no answer, whatever the
    # exit status: a process that ignores SIGCHLD always sees 0. A header alone together with an
    # error message is no answer either: squeue prints one, and exits with 0, for an unknown user id
    if not lines or (len(lines) == 1 and answer.stderr.strip()):
        said = answer.complaint or "nothing"
        raise SlurmError(cluster.name, "squeue", answer.code, said, transient=True)
    return [row for line in lines[1:] if (row := _row(line)) is not None]


def is_held(cluster: Cluster, job_id: str) -> bool:
    """Whether a job is held.

    Raises
    ------
    SlurmError, TransportError
        If there was no answer, or the job is not known.
    """
    return " Priority=0 " in cluster.ask("scontrol", "-o", "show", "job", job_id).stdout


def restarts(cluster: Cluster, job_id: str, timeout_s: float = ASK_TIMEOUT_S) -> int:
    """How often the controller has restarted a job; each restart has a new time of submission.

    Raises
    ------
    SlurmError, TransportError
        If there was no answer, or the job is not known.
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
