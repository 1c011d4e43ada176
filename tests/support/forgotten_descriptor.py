"""A run whose child dies, and says its last word, in one instant.

``python -P -m tests.support.forgotten_descriptor DIRECTORY``: one wait finds both that the child
has died and that its pipe can be read; reaping the child reads the pipe and closes it. Prints
how often the pipe was read.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from supervisor.containment.subreaper import Subreaper
from supervisor.ipc import messages
from supervisor.ipc.stopflag import StopFlag
from supervisor.records.plan import StopTimes
from supervisor.warden.guard import Guard
from supervisor.warden.lines import Front, Outbox
from supervisor.warden.run import RunInHand
from supervisor.warden.workforce import Run

RUN_ID = "20200102-030405-abcdef"


class LastWord(Guard):
    """A child whose end and whose last word are seen together."""

    exhausted = False

    def __init__(self, run: Run, wakeup: socket.socket) -> None:
        self._run = run
        self._wakeup = wakeup
        self._pipe = -1

    def start(self) -> None:
        self._pipe, said = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        os.write(said, b"bye")
        os.close(said)
        self._wakeup.send(bytes([signal.SIGCHLD]))  # watched before the pipe: seen before it
        self._run.watch(self._pipe, self._on_pipe)

    def _on_pipe(self) -> None:
        os.read(self._pipe, 3)
        self._run.forget(self._pipe)
        os.close(self._pipe)
        self._pipe = -1
        print("read", flush=True)

    def reaped(self, pid: int, status: int) -> None:
        del pid, status
        if self._pipe >= 0:
            self._on_pipe()
        self.exhausted = True
        self._run.check_done()


def main(run_dir: Path) -> None:
    _, ours = front = messages.pair()
    signals, wakeup = socket.socketpair()
    signals.setblocking(False)
    line = Front(ours, os.pidfd_open(os.getpid()), Outbox(ours))
    hire = partial(LastWord, wakeup=wakeup)
    RunInHand(RUN_ID, StopTimes(), run_dir, StopFlag(), line, Subreaper(), hire).perform(signals)
    for end in front:
        end.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
