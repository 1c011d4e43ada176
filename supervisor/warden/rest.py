"""The program that a warden becomes after its last run: it waits for the front to finish.

The front waits for the warden's end, and a process takes the longer to end the more it has
loaded. So the libraries are unloaded while the front writes its results, not afterwards.

``python -I -S rest.py RUN_DIR SOCKET PIDFD [SCRIBE]``: the lifeline to the front, its pidfd, and
the line to the scribe, which the finisher waits for. Run by its path, with almost nothing imported.
"""

import os
import select
import sys
from typing import NoReturn

_PACKET_BYTES = 2**16


def main() -> NoReturn:
    """Wait for the front's death, then finish the run; a healthy front kills this process first."""
    run_dir, line, front = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        with open("/proc/self/comm", "w") as name:  # noqa: PTH123 - pathlib is not imported
            name.write("allstop-warden")
    except OSError:
        pass  # only ps and top miss it
    waiting = select.poll()
    waiting.register(line, select.POLLIN)
    waiting.register(front, select.POLLIN)
    while front not in {fd for fd, _ in waiting.poll()} and _received(line):
        pass  # a late message, for a run that has ended
    import signal  # only now: a healthy front no longer waits for this process

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an ignored signal stays ignored by exec
    finisher = [sys.executable, "-P", "-m", "supervisor.lifecycle.finish", run_dir]
    os.execv(sys.executable, finisher + sys.argv[4:])


def _received(line: int) -> bool:
    """Read a message; False when the front has hung up."""
    try:
        return bool(os.read(line, _PACKET_BYTES))
    except OSError:
        return False  # it died before it had read every message


if __name__ == "__main__":
    main()
