"""A run that is asked to end in the very instant in which it has ended.

``python -P -m tests.support.late_request DIRECTORY``: executes a run with one child,
whose wait finds both that the child has died and, after it, the front's request. Prints
the names of the messages to the front, in order.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from supervisor.containment.subreaper import Subreaper
from supervisor.ipc import messages
from supervisor.ipc.stopflag import Level, StopFlag
from supervisor.records.plan import StopTimes
from supervisor.warden.guard import Guard
from supervisor.warden.lines import Front, Outbox
from supervisor.warden.run import RunInHand
from supervisor.warden.workforce import Run

RUN_ID = "20200102-030405-abcdef"


class OneChild(Guard):
    """A child that lives until the run begins to wait."""

    exhausted = False

    def __init__(self, run: Run) -> None:
        self._run = run
        self._child = 0

    def start(self) -> None:
        self._child = os.fork()
        if self._child == 0:
            signal.pause()
        self._run.heed_flag()  # a stop has begun: the child's death ends the run

    @property
    def report_due(self) -> None:  # type: ignore[override]
        """Asked just before the wait."""
        os.kill(self._child, signal.SIGKILL)
        os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)


def main(run_dir: Path) -> None:
    front, ours = messages.pair()
    signals, theirs = socket.socketpair()  # watched before the front's line: heard before it
    signals.setblocking(False)
    theirs.send(bytes([signal.SIGCHLD]))
    messages.send(front, messages.RequestStop(int(Level.KILL), ""))
    flag = StopFlag()
    flag.request(Level.STOP)
    pidfd = os.pidfd_open(os.getpid())
    line = Front(ours, pidfd, Outbox(ours))
    RunInHand(RUN_ID, StopTimes(), run_dir, flag, line, Subreaper(), OneChild).perform(signals)
    ours.close()
    while (message := messages.receive(front)[0]) is not None:
        print(type(message).__name__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
