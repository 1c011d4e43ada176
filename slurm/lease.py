"""Renews a lease: the file by which jobs know that they are still wanted.

The file is below the home directory of the cluster's user, which SLURM's nodes share.
Jobs watch whether it changes, see :mod:`slurm.batch.script`.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time

from slurm.batch.script import Lease
from slurm.controller.calls import Cluster
from supervisor.errors import AllstopError

_FOLDER = ".allstop/leases"
_RENEWALS = 4  # per lease: three may fail
_SHORTEST_S = 0.5
_END_S = 1.0
# its contents change, not only its time: a node may cache the file's attributes, but reads the
# contents anew when it opens the file
_RENEW = 'umask 077; mkdir -p "$HOME/$1" && printf %s "$3" > "$HOME/$1/$2"'
_REMOVE = 'rm -f "$HOME/$1/$2"'


def lease_of(token: str, lease_s: int) -> Lease:
    """Return the lease of a run's jobs."""
    return Lease(f"{_FOLDER}/{token}", lease_s)


def remove_lease(cluster: Cluster, token: str) -> None:
    """Remove the lease of a run that has no job left; failing is not an error."""
    with contextlib.suppress(AllstopError):
        cluster.call("sh", "-c", _REMOVE, "sh", _FOLDER, token)


class Renewer:
    """A thread that renews a lease until :meth:`end`.

    Parameters
    ----------
    cluster : Cluster
        The cluster that has the file.
    token : str
        The run's token.
    lease_s : int
        For how long the file may stay unchanged, in s.
    """

    def __init__(self, cluster: Cluster, token: str, lease_s: int) -> None:
        self._cluster = cluster
        self._token = token
        self._pause_s = max(_SHORTEST_S, lease_s / _RENEWALS)
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.renewed_at = 0.0

    def start(self) -> None:
        """Renew once, so that no job starts without a lease, then again and again.

        Raises
        ------
        AllstopError
            If it cannot be renewed now.
        """
        self._renew()
        self._thread = threading.Thread(target=self._run, name="allstop-lease", daemon=True)
        self._thread.start()

    def end(self, *, remove: bool) -> None:
        """Stop renewing; remove the file if no job is left that needs it."""
        if self._thread is not None:
            self._end.put(None)
            self._thread.join(_END_S)  # else a renewal under way could make the file again
            self._thread = None
        if remove:
            remove_lease(self._cluster, self._token)

    def _run(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                self._end.get(timeout=self._pause_s)
                return
            with contextlib.suppress(AllstopError):  # the next renewal may succeed
                self._renew()

    def _renew(self) -> None:
        self._cluster.ask(
            "sh", "-c", _RENEW, "sh", _FOLDER, self._token, secrets.token_hex(8),
            timeout_s=max(5.0, self._pause_s),
        )  # fmt: skip
        self.renewed_at = time.monotonic()
