"""Starts a warden: ``python -P -m supervisor.warden SOCKET SCRIBE FRONT_PID
CONTAINMENT [STRATEGY DEVICE]``; without a strategy no numeric library is loaded.

The containment is set up first, while the process is small: a PID namespace takes another
process, and forking one costs the more the more has been loaded. The process that becomes
the warden introduces itself to the front with a pidfd, which needs no translation between
namespaces. Only then are the libraries loaded.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from supervisor.containment import Containment
from supervisor.containment.choice import contain
from supervisor.containment.cookie import Cookie
from supervisor.containment.unavailable import UnavailableError
from supervisor.ipc import messages
from supervisor.records.scribe_line import ScribeLine
from supervisor.system import inherited_signals, process
from supervisor.system.host import namespace_of


def main() -> None:
    """Entry point of the process."""
    inherited_signals.settle()
    gc.disable()  # imports create many objects and no garbage: saves a sixth of the time
    sock, line = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    front_pid, wanted, likely = int(sys.argv[3]), sys.argv[4], sys.argv[5:7]
    for one in (sock, line):
        one.set_inheritable(False)
    scribe = ScribeLine(line)
    outside = namespace_of(os.getpid())
    try:
        front = os.pidfd_open(front_pid)
        if os.getppid() != front_pid:
            os._exit(0)  # it died before we could watch it
        process.set_title("allstop-warden")
        cookie = Cookie()
        try:
            containment = contain(wanted, lambda held, spent: _introduce(sock, held, spent))
        except UnavailableError as error:
            _refuse(sock, wanted, error, scribe)
        from supervisor.warden.lines import Front, Outbox
        from supervisor.warden.serve import work

        work(Front(sock, front, Outbox(sock), scribe), likely, containment, cookie, outside)
        os._exit(0)  # nothing of numba's or LLVM's needs an orderly end
    except BaseException:  # noqa: BLE001 - the front reads the last line of this
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _introduce(sock: socket.socket, containment: Containment, spent: list[int]) -> None:
    me = os.pidfd_open(os.getpid())
    messages.send(sock, messages.WardenBorn(containment.name), [me, *spent])
    for fd in (me, *spent):
        os.close(fd)


def _refuse(
    sock: socket.socket, wanted: str, error: UnavailableError, scribe: ScribeLine | None = None
) -> NoReturn:
    """Tell the front what is missing, then wait until it closes the connection.

    Exiting at once could hide the reason behind the warden's death. The front may name the
    run only after this; then the refusal is recorded there too.
    """
    from supervisor.warden.refusal import record_refusal

    why = f"containment {wanted}: {error.why}: {error.fix}; or leave --containment at auto"
    refusal = messages.RunRefused(messages.clip(why), usage=True)
    messages.send(sock, refusal)
    while True:
        message, fds = messages.receive(sock)
        for fd in fds:
            os.close(fd)
        if isinstance(message, messages.Order):
            record_refusal(Path(message.run_dir), refusal, scribe)
        if message is None:
            os._exit(1)


if __name__ == "__main__":
    main()
