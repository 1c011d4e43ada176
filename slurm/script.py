"""The text of a batch script: pure, from a job to what ``sbatch`` reads.

SLURM signals the batch shell, and a shell that waits for a program hears nothing
until that program ends; one that dies of SIGTERM leaves its program behind, or
takes it along without a word, as the cluster is configured. So the command runs
beside the shell, which hands SIGTERM on and waits for its end.

The lease is a file that whoever submitted the job touches again and again. The
job watches whether it *changes*, by the node's own clock: clocks of different
machines are never compared. Silence for too long ends the job: SIGTERM to the
command, then a cancel of its own, then SIGKILL to its process group.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from slurm.job import Job

_HEAD = """\
#!/bin/bash
# {token}
"""

_COMMAND = """\
main() {{
{setup}
  exec {command}
}}
asked= main_pid=
trap 'asked=1; [ -n "$main_pid" ] && kill -TERM "$main_pid" 2>/dev/null' TERM
main &
main_pid=$!
[ -n "$asked" ] && kill -TERM "$main_pid" 2>/dev/null  # it came before there was anybody to tell
"""

_LEASE = """\
watch_lease() {{
  lease={path}
  seen= since=$SECONDS
  trap 'kill "$!" 2>/dev/null; exit' TERM
  while sleep {every_s} & wait "$!"; kill -0 "$main_pid" 2>/dev/null; do
    now=$(timeout 20 stat -c %Y.%Z.%i -- "$lease" 2>/dev/null)
    if [ "$now" != "$seen" ]; then
      seen=$now since=$SECONDS
    elif [ $((SECONDS - since)) -ge {lease_s} ]; then
      echo "fullstop: nobody has renewed the lease for {lease_s} s: this job ends itself" >&2
      end_itself
    fi
  done
}}
end_itself() {{
  kill -TERM "$main_pid" 2>/dev/null
  for _ in $(seq {grace_s}); do
    kill -0 "$main_pid" 2>/dev/null || return
    sleep 1
  done
  for _ in 1 2 3 4 5 6; do
    timeout 20 scancel "$SLURM_JOB_ID"
    sleep 10
  done
  kill -KILL -- -$$
}}
watch_lease </dev/null &
watcher_pid=$!
"""

_WAIT = """\
wait "$main_pid"
code=$?
while kill -0 "$main_pid" 2>/dev/null; do  # a signal that was handed on has ended the wait
  wait "$main_pid"
  code=$?
done
"""

_END_LEASE = """\
kill "$watcher_pid" 2>/dev/null
"""

_EXIT = """\
exit "$code"
"""


class Lease(NamedTuple):
    """By what a job knows that somebody still wants it.

    Attributes
    ----------
    path : str
        File on the cluster, below the home directory unless it begins with a slash.
    lease_s : int
        How long the file may stay unchanged, in s.
    grace_s : int
        How long the command has from SIGTERM, in s.
    """

    path: str
    lease_s: int
    grace_s: int = 30

    @property
    def every_s(self) -> int:
        """How often the job looks, in s."""
        return max(1, min(30, self.lease_s // 5))


def batch_script(job: Job, token: str, lease: Lease | None = None) -> str:
    """Return the text that ``sbatch`` reads for a job.

    Parameters
    ----------
    job : Job
        The job; its options are arguments of ``sbatch``, not part of the text.
    token : str
        The run's token, for people who look at the script.
    lease : Lease, optional
        Without one the job outlives whoever submitted it.
    """
    parts = [
        _HEAD.format(token=token),
        *(f"export {name}={shlex.quote(value)}\n" for name, value in job.environment.items()),
        _COMMAND.format(setup=_indented(job.setup), command=shlex.join(job.command)),
    ]
    if lease:
        parts.append(
            _LEASE.format(
                path=_home_path(lease.path),
                lease_s=lease.lease_s,
                grace_s=lease.grace_s,
                every_s=lease.every_s,
            )
        )
    parts.append(_WAIT)
    if lease:
        parts.append(_END_LEASE)
    return "".join([*parts, _EXIT])


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines) or "  :"


def _home_path(path: str) -> str:
    return shlex.quote(path) if path.startswith("/") else f'"$HOME"/{shlex.quote(path)}'
