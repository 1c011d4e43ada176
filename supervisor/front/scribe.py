"""The front's scribe: starting it, and its end (see :mod:`supervisor.records.scribe`)."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading

from supervisor.records.scribe_line import PROGRAM, ScribeLine
from supervisor.system.environment import child_environment

_END_S = 1.0  # beyond this its disk does not answer: it ends when that does


class Scribe:
    """The process that writes the facts of this process's runs, and of their warden.

    Where no process can be started, there is none, and both write themselves.

    Parameters
    ----------
    warden : socket.socket
        The scribe's end of the line that the warden has; this object owns it from now on.

    Attributes
    ----------
    line : ScribeLine or None
        This process's line to it.
    """

    def __init__(self, warden: socket.socket) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pidfd = os.pidfd_open(os.getpid())
        fds = [pidfd, theirs.fileno(), warden.fileno()]
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self.line: ScribeLine | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                cwd="/",  # it must not keep a file system busy
                start_new_session=True,
            )
            self.line = ScribeLine(ours)
        except OSError:
            ours.close()
        finally:
            theirs.close()
            warden.close()
            os.close(pidfd)

    @property
    def pid(self) -> int:
        """Its pid; 0: there is none."""
        return self._process.pid if self._process else 0

    def close(self, *, wait: bool = True) -> None:
        """Hang up, and wait until it has written all and is gone, unless the disk is silent.

        It serves the warden as long as that lives: ``wait`` only if that is gone.
        """
        if self.line is None or self._process is None:
            return
        process, self._process = self._process, None
        if self._owner == os.getpid():
            late = self.line.late
            self.line.hang_up()
            if wait and not late and _has_ended(process.pid, _END_S):
                process.wait()
            else:
                _reap_later(process)
        self.line.close()


def _has_ended(pid: int, patience_s: float) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True  # the caller's program ignores SIGCHLD: the kernel has reaped it
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    try:
        return bool(waiting.poll(1000 * patience_s))
    finally:
        os.close(pidfd)


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(RuntimeError):  # no thread can be started: our own end reaps it
        threading.Thread(target=process.wait, name="allstop-scribe", daemon=True).start()
