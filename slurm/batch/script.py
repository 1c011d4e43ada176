"""The text of a batch script: pure, from a job to what ``sbatch`` reads.

SLURM signals the batch shell, and a shell that waits for a program hears nothing
until that program ends; one that dies of SIGTERM leaves its program behind, or
takes it along without a word, as the cluster is configured. So the command runs
beside the shell, which hands SIGTERM on and waits for its end.

The lease is a file into which whoever submitted the job writes something new again
and again. The job watches whether it *changes*, by the node's own clock: clocks of
different machines are never compared. Silence for too long ends the job: SIGTERM to the
command, then a cancel of its own, then SIGKILL to its process group.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import NamedTuple

from slurm.batch.job import Job

_CONTROL = re.compile(r"[\x01-\x1f\x7f]")

_HEAD = """\
#!/bin/bash
# {token}
"""

# what the job is to have in its environment, and what it sets up, is the command's alone: the
# shell and the watcher go on with the node's own PATH and HOME
_COMMAND = """\
main() {{
{setup}
exec -- {command}
}}
main_pid= told=
tell() {{ told=1; [ -n "$main_pid" ] && kill -TERM "$main_pid" 2>/dev/null; }}
trap tell TERM
main &
main_pid=$!
[ -n "$told" ] && tell  # it came before there was anybody to tell
"""

# SIGTERM reaches all processes of a job, and a command may not heed it: the watcher stays.
# It waits by reading what never comes, and so leaves no sleep behind when it is killed.
_LEASE = """\
watch_lease() {{
  local lease={path} now seen= since=$SECONDS nap
  trap '' TERM
  exec {{nap}}<> <(:)
  while read -rt {every_s} -u "$nap"; [ $? -gt 128 ] || sleep {every_s}
        kill -0 "$main_pid" 2>/dev/null; do
    now=$(timeout 20 cat -- "$lease" 2>/dev/null)
    if [ -n "$now" ] && [ "$now" != "$seen" ]; then
      seen=$now since=$SECONDS
    elif [ $((SECONDS - since)) -ge {lease_s} ]; then
      echo "allstop: nobody has renewed the lease for {lease_s} s: this job ends itself" >&2
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

# a signal that is handed on ends the wait, but not the command
_WAIT = """\
while told=; wait "$main_pid"; code=$?; [ -n "$told" ]; do :; done
"""

_END_LEASE = """\
kill -KILL "$watcher_pid" 2>/dev/null
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


def batch_script(job: Job, token: str, lease: Lease | None = None) -> bytes:
    """Return what ``sbatch`` reads for a job.

    Parameters
    ----------
    job : Job
        The job; its options are arguments of ``sbatch``, not part of the text.
    token : str
        The run's token, for people who look at the script.
    lease : Lease, optional
        Without one the job outlives whoever submitted it.
    """
    exports = [f"export {name}={_quoted(value)}" for name, value in job.environment.items()]
    parts = [
        _HEAD.format(token=token),
        _COMMAND.format(
            setup="\n".join([*exports, *job.setup]) or ":",
            command=" ".join(map(_quoted, job.command)),
        ),
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
    return os.fsencode("".join([*parts, _EXIT]))


def _quoted(word: str) -> str:
    """Quote a word for bash; ``sbatch`` takes no script with a carriage return in it."""
    if not _CONTROL.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _CONTROL.sub(lambda found: f"\\{ord(found[0]):03o}", plain) + "'"


def _home_path(path: str) -> str:
    return _quoted(path) if path.startswith("/") else f'"$HOME"/{_quoted(path)}'
