"""A run that fails by a mistake of the user's: what its front is told, as JSON.

``python -P -m tests.support.failing_run DIRECTORY``
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
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
WHY = "the strategy is not there"


class Fails(Guard):
    """Its child waits to be killed; the run fails before that."""

    exhausted = False

    def __init__(self, run: Run) -> None:
        self._run = run

    def start(self) -> None:
        if os.fork() == 0:
            signal.pause()
        self._run.fail(WHY, usage=True)


def main(run_dir: Path) -> None:
    front, ours = messages.pair()
    signals, _theirs = socket.socketpair()
    signals.setblocking(False)
    line = Front(ours, os.pidfd_open(os.getpid()), Outbox(ours))
    times = StopTimes(grace_s=0.01, terminate_s=0.01)
    RunInHand(RUN_ID, times, run_dir, StopFlag(), line, Subreaper(), Fails).perform(signals)
    ours.close()
    while (message := messages.receive(front)[0]) is not None:
        if isinstance(message, messages.RunEnded):
            print(json.dumps(message._asdict()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
