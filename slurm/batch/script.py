"""The text of a batch script: a pure function from a job to the input of ``sbatch``.

SLURM signals the batch shell. A shell that waits for a program runs its traps only when
that program has ended, and one that dies of SIGTERM leaves its program running or has
it killed at once, depending on the cluster's configuration. So the command runs in the
background of the shell, which forwards SIGTERM and waits.

The lease is a file into which the submitting process writes a new value again and
again. The job watches whether it *changes*, by its node's own clock: clocks of different
machines are never compared. When it has not changed for too long, the job ends itself:
SIGTERM to the command, then ``scancel`` of its own id, then SIGKILL to its process group.
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

# the job's environment and setup lines apply to the command alone: the shell and the watcher
# keep the node's own PATH and HOME
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
[ -n "$told" ] && tell  # it came before the command was started
"""

# SIGTERM reaches all processes of a job, and a command may ignore it: the watcher ignores it, too.
# It waits by reading from a pipe that stays empty, so that killing it leaves no sleep behind.
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
      echo "allstop: the lease was not renewed for {lease_s} s: this job ends itself" >&2
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

# a signal ends a wait but not the command, and bash may take one for another's: its word counts
# only when the command is gone and no signal can come any more; it remembers the exit code
_WAIT = """\
while wait "$main_pid"; kill -0 "$main_pid" 2>/dev/null; do :; done
trap '' TERM
wait "$main_pid"
code=$?
"""

_END_LEASE = """\
kill -KILL "$watcher_pid" 2>/dev/null
"""

_EXIT = """\
exit "$code"
"""


class Lease(NamedTuple):
    """The file by which a job knows that it is still wanted.

    Attributes
    ----------
    path : str
        File on the cluster, below the home directory unless it begins with a slash.
    lease_s : int
        For how long the file may stay unchanged, in s.
    grace_s : int
        Time for the command between SIGTERM and SIGKILL, in s.
    """

    path: str
    lease_s: int
    grace_s: int = 30

    @property
    def every_s(self) -> int:
        """How often the job reads the file, in s."""
        return max(1, min(30, self.lease_s // 5))


def batch_script(job: Job, token: str, lease: Lease | None = None) -> bytes:
    """Return the batch script of a job.

    Parameters
    ----------
    job : Job
        The job; its options are arguments of ``sbatch``, not part of the script.
    token : str
        The run's token, for people who read the script.
    lease : Lease, optional
        Without one the job outlives the process that submitted it.
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
    """Quote a word for bash; ``sbatch`` refuses scripts that contain a carriage return."""
    if not _CONTROL.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _CONTROL.sub(lambda found: f"\\{ord(found[0]):03o}", plain) + "'"


def _home_path(path: str) -> str:
    return _quoted(path) if path.startswith("/") else f'"$HOME"/{_quoted(path)}'
