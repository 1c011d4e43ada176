"""The front's line to a warden: spawning one, keeping one warm, handing it a run.

A warden that has just finished a run holds nothing of it: no process, no bars,
no results. Inside one Python process it is kept, with its libraries loaded, so
that the next run starts in milliseconds; it ends with the process, or with
:func:`release_wardens`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import supervisor
from supervisor import control
from supervisor.errors import WardenLostError
from supervisor.process import Identity

_ONE_THREAD = {
    # The warden must have one thread (PR_SET_PDEATHSIG follows the thread that forks, and a
    # forked child has only that one); a worker is one core's worth of work.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}


class WardenLink:
    """A warden process and the line to it.

    Parameters
    ----------
    strategy : str
        What it will probably be asked for: a built-in's kernels are loaded early.

    Attributes
    ----------
    sock : socket.socket
        Packet socket; EOF on it tells the warden that we are gone.
    pidfd : int
        Readable once the warden is dead.
    pid : int
        The warden's pid.
    """

    def __init__(self, strategy: str = "") -> None:
        self.sock, theirs = control.pair()
        self.sock.setblocking(False)
        self._complaints = os.memfd_create("fullstop-warden-stderr", os.MFD_CLOEXEC)
        arguments = [sys.executable, "-P", "-m", "supervisor.warden"]
        self._process = subprocess.Popen(
            [*arguments, str(theirs.fileno()), str(os.getpid()), strategy],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._complaints,
            stderr=self._complaints,
            env=child_environment(),
            start_new_session=True,
        )
        theirs.close()
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.identity = Identity.of(self.pid) or Identity(self.pid, 0)
        self._owner = os.getpid()

    def send(self, message: control.Message, fds: list[int] | None = None) -> None:
        """Send a message; one to a dead warden is lost, and its death is told by the pidfd."""
        control.send(self.sock, message, fds)

    @property
    def usable(self) -> bool:
        """Whether the warden is this very process's own, and alive."""
        if self._owner != os.getpid():
            return False  # a forked copy: it serves the process that forked us
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return not poller.poll(0)

    def kill(self) -> None:
        """SIGKILL the warden; the kernel ends its workers with it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wake(self) -> None:
        """SIGCONT the warden, in case somebody stopped it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)

    def complaints(self) -> str:
        """What the warden wrote to its standard error before it had a log."""
        size = os.fstat(self._complaints).st_size
        return os.pread(self._complaints, size, 0).decode(errors="replace").strip()

    def lost(self, run_dir: Path | None = None) -> WardenLostError:
        """Describe the warden's death."""
        try:
            code: int | None = self._process.wait(1.0)  # it may have hung up just before dying
        except subprocess.TimeoutExpired:
            code = None
        last = self.complaints().splitlines()[-1:]
        detail = f": {last[0]}" if last else ""
        return WardenLostError(
            f"the warden (pid {self.pid}) died with status {code}{detail}",
            run_dir=None if run_dir is None else str(run_dir),
        )

    def close(self) -> None:
        """Hang up and see the warden gone.

        Called when it holds no run (then there is nothing an orderly end
        would add) or when it has been given up on.
        """
        self.sock.close()
        if self._owner == os.getpid():  # in a forked copy the warden is not our child
            self.kill()
            self._process.wait()
        os.close(self.pidfd)
        os.close(self._complaints)

    def abandon(self) -> None:
        """Hang up only: the warden takes it for our death and ends the run by itself."""
        self.sock.close()


_spare: list[WardenLink] = []
_spare_lock = threading.Lock()


def take_warden(strategy: str = "") -> WardenLink:
    """Take a warm warden, or spawn one that will probably be asked for ``strategy``."""
    with _spare_lock:
        links, _spare[:] = list(_spare), []
    for link in links:
        if link.usable:
            return link
        link.close()
    return WardenLink(strategy)


def prewarm(strategy: str) -> None:
    """Spawn a warden for a run that is about to be asked for; it loads while we do."""
    keep_warden(WardenLink(strategy))


def keep_warden(link: WardenLink) -> None:
    """Keep a warden whose run has ended cleanly, for the next run of this process."""
    with _spare_lock:
        if not _spare and link.usable:
            _spare.append(link)
            return
    link.close()


def release_wardens() -> None:
    """End the warm warden of this process, if there is one."""
    with _spare_lock:
        links, _spare[:] = list(_spare), []
    for link in links:
        link.close()


atexit.register(release_wardens)


def child_environment() -> dict[str, str]:
    """Environment for another process of this package's: it finds the package, and one thread."""
    env = dict(os.environ) | _ONE_THREAD
    root = str(Path(supervisor.__file__).parent.parent)
    if Path(root).name not in ("site-packages", "dist-packages"):
        # run from a checkout: -P keeps the current directory off the path, so say where we are
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return env
