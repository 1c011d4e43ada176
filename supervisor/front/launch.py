"""Starting the process that becomes the warden: the first thing that ``run`` does.

The warden loads its libraries while the command loads others, so it should start at once: this
module imports only what that needs. Everything else about a warden is in
:mod:`supervisor.front.link`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from supervisor.front.scribe import Scribe
from supervisor.system.environment import child_environment, with_room

_HASH_SEED = "0"
"""The order of a set of texts is that of their hashes: a resumed run must have the same."""


class Launch:
    """A process that was started to become a warden.

    Parameters
    ----------
    preload : str or None
        The strategy that will probably run: its libraries, and a built-in's kernels, are
        loaded early; empty: unknown yet. None: no library, for a command or a guard.
    containment : str
        The requested strength, or ``auto``.
    device : str
        The device that will probably be asked for: it decides what is loaded early.

    Attributes
    ----------
    containment : str
        As above.
    sock : socket.socket
        Our end of the line to it: packets, never blocking.
    complaints : int
        A file in memory that is its standard output and error.
    process : subprocess.Popen
        The process itself.
    pidfd : int
        Means this process, even if its pid is used again.
    scribe : Scribe
        Writes for this process and for the warden.
    """

    def __init__(
        self, preload: str | None = "", containment: str = "auto", device: str = "auto"
    ) -> None:
        self.containment = containment
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.complaints = os.memfd_create("allstop-warden-stderr", os.MFD_CLOEXEC)
        scribe_end, line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        strategy = [] if preload is None else [preload, device]
        arguments = [sys.executable, "-P", "-m", "supervisor.warden"]
        self.process = subprocess.Popen(
            [
                *arguments, str(theirs.fileno()), str(line.fileno()), str(os.getpid()),
                containment, *strategy,
            ],
            pass_fds=[theirs.fileno(), line.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.complaints,
            stderr=self.complaints,
            env={"PYTHONHASHSEED": _HASH_SEED} | with_room(child_environment()),
            start_new_session=True,
        )  # fmt: skip
        self.pidfd = os.pidfd_open(self.process.pid)
        theirs.close()
        line.close()
        self.scribe = Scribe(scribe_end)
