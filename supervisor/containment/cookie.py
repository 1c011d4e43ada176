"""Finding a run's processes by what they inherited: the last resort for escapees.

Everything a worker starts inherits ``FULLSTOP_RUN_ID``. Where containment cannot
reach (a daemon of a worker's, once warden and front are dead), this is what tells
such a process from a stranger's. The kernel keeps the environment a program was
*started* with, so a process that was only forked does not show it.

References
----------
proc(5), ``/proc/[pid]/environ``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from supervisor.process import Identity

VARIABLE = "FULLSTOP_RUN_ID"


def escapees(run_id: str) -> list[Identity]:
    """Return this user's living processes that carry a run's cookie, the caller left out."""
    wanted = f"{VARIABLE}={run_id}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to look into
            if entry.stat().st_uid != os.getuid():
                continue
            # the identity first: if the pid is handed on in between, it is of no use any more
            identity = Identity.of(int(entry.name))
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
            if identity is not None and wanted in environment and identity.alive:
                found.append(identity)
    return found
