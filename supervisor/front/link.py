"""The front's connection to a warden: starting one, keeping it warm, handing it a run.

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
import threading
import time
from pathlib import Path

from supervisor.errors import WardenLostError
from supervisor.front.launch import Launch
from supervisor.ipc import messages
from supervisor.system.process import Identity, pid_of

_BIRTH_S = 10.0  # for a warden that a killed starter has already made to introduce itself
_DEATH_S = 10.0
"""For a warden that has hung up, or was killed, to be dead, where something depends on it. The
first process of a PID namespace is dead only when all in it are, and it hangs up before that."""
_END_S = 2.0  # beyond this a killed warden waits for a process in D state: it is left to the kernel


class WardenLink:
    """A warden process and the connection to it.

    The process that is started may not be the one that is the warden in the end
    (see :mod:`supervisor.containment.pid_namespace`): that one introduces itself
    along the line, and is a child of this process too. Until then, ``pidfd``
    stands for the process that was started.

    Parameters
    ----------
    launch : Launch
        The process that was started to be it; this object owns it from now on.

    Attributes
    ----------
    sock : socket.socket
        Packet socket; EOF on it tells the warden that we are gone.
    pidfd : int
        Readable once the warden is dead.
    wanted, containment : str
        The requested strength, and the one in use; empty: not known yet.
    scribe : Scribe
        Writes for this process and for the warden.
    """

    def __init__(self, launch: Launch) -> None:
        self.sock = launch.sock
        self.wanted, self.containment = launch.containment, ""
        self._complaints = launch.complaints
        self._process = launch.process
        self.pidfd = launch.pidfd
        self.scribe = launch.scribe
        self._pid = 0
        self._heard: list[tuple[messages.Message | None, list[int]]] = []
        self._owner = os.getpid()

    @property
    def born(self) -> bool:
        """Whether the warden has introduced itself, as far as its messages have been read."""
        return self._pid > 0

    @property
    def pid(self) -> int:
        """The warden's pid; waits until it has introduced itself.

        Raises
        ------
        WardenLostError
            If it died first, or refused.
        """
        while not self.born:
            _wait_readable(self.sock.fileno(), self.pidfd)
            self._listen()
            if not self.born and (self._heard or _wait_readable(self.pidfd, patience_s=0)):
                raise self.lost()
        return self._pid

    @property
    def identity(self) -> Identity:
        """The warden as the registry knows it."""
        return Identity.of(self.pid) or Identity(self.pid, 0)

    def receive(self) -> tuple[messages.Message | None, list[int]]:
        """Receive a message as :func:`.messages.receive` does; introductions are taken in here."""
        if not self._heard and not self._listen():
            raise BlockingIOError
        return self._heard.pop(0)

    def _listen(self) -> bool:
        """Read one message; False if none has arrived that a caller of :meth:`receive` needs."""
        try:
            message, fds = messages.receive(self.sock)
        except BlockingIOError:
            return False
        if not isinstance(message, messages.WardenBorn):
            self._heard.append((message, fds))
            return True
        if fds and not self.born:
            self._meet(message, fds)
        return self._listen()

    def _meet(self, message: messages.WardenBorn, fds: list[int]) -> None:
        """Adopt the process of this pidfd as the warden; reap those of failed attempts."""
        warden, *spent = fds
        self.containment, self._pid = message.containment, pid_of(warden)
        if self._pid != self._process.pid:
            self._process.kill()  # it has done its work
            self._process.wait()
        os.close(self.pidfd)
        self.pidfd = warden
        for fd in spent:
            _kill(fd)
            _reap(fd)
            os.close(fd)

    def send(self, message: messages.Message, fds: list[int] | None = None) -> None:
        """Send a message; one to a dead warden is lost, and the pidfd shows its death."""
        messages.send(self.sock, message, fds)

    @property
    def usable(self) -> bool:
        """Whether the warden belongs to this process, and is alive."""
        if self._owner != os.getpid():
            return False  # a forked copy: it serves the process that forked us
        for _ in range(2):  # a starter that ends between the two looks has named its successor
            if not self.born and not self._heard:
                self._listen()
            if not _wait_readable(self.pidfd, patience_s=0):
                return True
        return False

    def serves(self, wanted: str) -> bool:
        """Whether a run that wants this containment can have this warden."""
        return wanted == self.wanted or (self.wanted == "auto" and wanted == self.containment)

    def kill(self) -> None:
        """SIGKILL the warden; the kernel ends its workers with it."""
        _kill(self.pidfd)

    def wake(self) -> None:
        """SIGCONT the warden, in case it was suspended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)

    def complaints(self) -> str:
        """What the warden wrote to its standard error before it had a log."""
        size = os.fstat(self._complaints).st_size
        return os.pread(self._complaints, size, 0).decode(errors="replace").strip()

    def lost(self, run_dir: Path | None = None) -> WardenLostError:
        """Describe the warden's death."""
        code = self._wait(_DEATH_S)  # it hangs up some time before it is dead
        last = self.complaints().splitlines()[-1:]
        detail = f": {last[0]}" if last else ""
        return WardenLostError(
            f"the warden (pid {self._pid or self._process.pid}) died with status {code}{detail}",
            run_dir=None if run_dir is None else str(run_dir),
        )

    def see_dead(self) -> bool:
        """SIGKILL the warden and wait for its end; False if it does not end in time."""
        self.kill()
        return _wait_readable(self.pidfd, patience_s=_DEATH_S)

    def close(self) -> None:
        """Close the connection and wait until the warden is gone.

        Called when it has no run (an orderly end would add nothing) or when it has been given
        up.
        """
        gone = True
        if self._owner == os.getpid():  # in a forked copy the warden is not our child
            self.kill()
            gone = self._wait(_END_S) is not None
            if not self.born and self._await_birth():
                self.kill()
                gone = self._wait(_END_S) is not None
        self.sock.close()
        if gone:
            os.close(self.pidfd)
        else:
            self._reap_later()
        self.scribe.close(wait=gone)
        os.close(self._complaints)
        for _, fds in self._heard:
            for fd in fds:
                os.close(fd)

    def abandon(self) -> None:
        """Close the connection only: the warden takes it for our death and ends the run."""
        self.sock.close()
        self.scribe.close(wait=False)
        self._reap_later()

    def _reap_later(self) -> None:
        """Reap the warden when it ends: it is our child, so no other process does."""

        def collect() -> None:
            self._wait()
            os.close(self.pidfd)

        with contextlib.suppress(RuntimeError):  # no thread can be started: our own end reaps it
            threading.Thread(target=collect, name="allstop-reaper", daemon=True).start()

    def _wait(self, patience_s: float | None = None) -> int | None:
        """Wait for the warden's death and reap it; return its status, None: unknown."""
        if not _wait_readable(self.pidfd, patience_s=patience_s):
            return None
        if self._pid in (0, self._process.pid):
            return self._process.wait()
        return _reap(self.pidfd)

    def _await_birth(self) -> bool:
        """After the starter's death: wait for its successor. EOF means that there is none."""
        deadline = time.monotonic() + _BIRTH_S
        while not self.born and not any(message is None for message, _ in self._heard):
            if not _wait_readable(self.sock.fileno(), patience_s=deadline - time.monotonic()):
                break
            self._listen()
        return self.born


def _wait_readable(*fds: int, patience_s: float | None = None) -> bool:
    """Wait until one of some descriptors is readable; False if it took too long."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if patience_s is None else max(0.0, 1000 * patience_s)))


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _reap(pidfd: int) -> int | None:
    """Reap a dead or dying child; return its status, None if it was reaped already."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


_spare: list[WardenLink] = []
_spare_lock = threading.Lock()


def take_warden(
    preload: str | None = "", containment: str = "auto", device: str = "auto"
) -> WardenLink:
    """Take a warm warden, or spawn one that loads early what :class:`.Launch` says."""
    with _spare_lock:
        links, _spare[:] = list(_spare), []
    for link in links:
        if link.usable and link.serves(containment):
            return link
        link.close()
    return WardenLink(Launch(preload, containment, device))


def keep_warden(link: WardenLink) -> None:
    """Keep a warden for this process's next run.

    Its last run has ended cleanly, or it is loading for one that is about to be requested.
    """
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
