"""What a warden becomes once its last run is over: it sees whether the front gets done.

The front waits for the warden's end, and the end of a process takes the longer the more it
has loaded. So the libraries go while the front writes its results, not afterwards.

``python -I -S rest.py SOCKET PIDFD RUN_DIR``: the line to the front, and the front. Run by
its path, with next to nothing imported.
"""

import os
import select
import sys
from typing import NoReturn

_PACKET_BYTES = 2**16


def main() -> NoReturn:
    """Wait for the front's death, then finish the run in its place; the front kills us before."""
    line, front, run_dir = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    try:
        with open("/proc/self/comm", "w") as name:  # noqa: PTH123 - pathlib is not imported
            name.write("allstop-warden")
    except OSError:
        pass  # only those who look miss it
    waiting = select.poll()
    waiting.register(line, select.POLLIN)
    waiting.register(front, select.POLLIN)
    while front not in {fd for fd, _ in waiting.poll()} and _heard(line):
        pass  # late words, for a run that has ended
    import signal  # not before: the front waits for our end no more

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what is ignored stays so in all it starts
    os.execv(sys.executable, [sys.executable, "-P", "-m", "supervisor.lifecycle.finish", run_dir])


def _heard(line: int) -> bool:
    """Whether something was said; False when there is nobody left to say it."""
    try:
        return bool(os.read(line, _PACKET_BYTES))
    except OSError:
        return False  # it died without hearing us out


if __name__ == "__main__":
    main()
