"""Renews the file by which jobs know that somebody still wants them.

The file lies below the home directory of the cluster's user, which SLURM's nodes
share. Jobs watch whether it changes, see :mod:`slurm.batch.script`.
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
_RENEWALS = 4  # in the time that a lease lasts: three may be lost
_SHORTEST_S = 0.5
_END_S = 1.0
# what is in it changes, not only its time: a node that has the file's attributes in a cache of
# its own reads it anew when it opens it
_RENEW = 'mkdir -p "$HOME/$1" && printf %s "$3" > "$HOME/$1/$2"'
_REMOVE = 'rm -f "$HOME/$1/$2"'


def lease_of(token: str, lease_s: int) -> Lease:
    """Name the lease of a run's jobs."""
    return Lease(f"{_FOLDER}/{token}", lease_s)


def remove_lease(cluster: Cluster, token: str) -> None:
    """Remove the lease of a run that has no job left; not an error if that cannot be done."""
    with contextlib.suppress(AllstopError):
        cluster.call("sh", "-c", _REMOVE, "sh", _FOLDER, token)


class Renewer:
    """A thread that renews a lease until it is told to end.

    Parameters
    ----------
    cluster : Cluster
        Where the file lies.
    token : str
        The run's token.
    lease_s : int
        How long the jobs stand silence, in s.
    """

    def __init__(self, cluster: Cluster, token: str, lease_s: int) -> None:
        self._cluster = cluster
        self._token = token
        self._pause_s = max(_SHORTEST_S, lease_s / _RENEWALS)
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.renewed_at = 0.0

    def start(self) -> None:
        """Renew once, so that no job begins without a lease, then again and again.

        Raises
        ------
        AllstopError
            If it cannot be renewed now.
        """
        self._renew()
        self._thread = threading.Thread(target=self._run, name="allstop-lease", daemon=True)
        self._thread.start()

    def end(self, *, remove: bool) -> None:
        """Stop renewing; remove the file when no job is left that would miss it."""
        if self._thread is not None:
            self._end.put(None)
            self._thread.join(_END_S)  # else what is removed now may be there again
            self._thread = None
        if remove:
            remove_lease(self._cluster, self._token)

    def _run(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                self._end.get(timeout=self._pause_s)
                return
            with contextlib.suppress(AllstopError):  # the next one may get through
                self._renew()

    def _renew(self) -> None:
        self._cluster.ask(
            "sh", "-c", _RENEW, "sh", _FOLDER, self._token, secrets.token_hex(8),
            timeout_s=max(5.0, self._pause_s),
        )  # fmt: skip
        self.renewed_at = time.monotonic()
