"""Looking into a run's directory without waiting for its disk: another process looks.

A stop asks the run first; what it reads afterwards may lie on a file system that hangs, and a
process that waits for one cannot be ended. ``python -P -m supervisor.lifecycle.look RUN_DIR``
answers questions, one JSON array a line, and nothing waits for it without bound.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError
from supervisor.records.events import latest
from supervisor.system import durable
from supervisor.system.environment import child_environment

_FIRST_S = 10.0  # its start included, on a busy machine
_ANSWER_S = 5.0


class Looker:
    """Answers questions about the files of a run's directory, in bounded time.

    The first question starts its process. When it does not answer, or the directory cannot be
    read, :attr:`problem` says so, and every later answer is that nothing is there.

    Parameters
    ----------
    run_dir : Path
        The directory.

    Attributes
    ----------
    problem : str
        Why the directory cannot be looked at; empty: it can.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._patience_s = _FIRST_S
        self.problem = ""

    def latest(self, *names: str) -> str:
        """Return which of these facts happened last; empty: none, or it cannot be seen."""
        return str(self._ask("latest", *names) or "")

    def exists(self, name: str) -> bool:
        """Whether a file exists, as far as can be seen."""
        return self._ask("exists", name) is True

    def read(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file; None: it is not there, not one, or cannot be seen."""
        found = self._ask("read", name)
        return found if isinstance(found, dict) else None

    def takes_writes(self) -> bool:
        """Whether its disk answers to a write too; a frozen one can be read."""
        self._ask("touch")
        return not self.problem

    def close(self) -> None:
        """End the process; it is not waited for if it does not answer."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.kill()
        with contextlib.suppress(RuntimeError):  # no thread can be started: our own end reaps it
            threading.Thread(target=process.wait, name="allstop-look", daemon=True).start()

    def _ask(self, *question: str) -> Any:
        if self.problem:
            return None
        try:
            answer = self._exchange(json.dumps(question).encode() + b"\n")
        except OSError as error:
            self.problem = f"{self._run_dir} cannot be looked at: {error.strerror}"
            return None
        if answer is None:
            self.problem = f"the disk of {self._run_dir} does not answer"
            return None
        if "error" in answer:
            self.problem = f"{self._run_dir} cannot be read: {answer['error']}"
            return None
        return answer["found"]

    def _exchange(self, question: bytes) -> dict[str, Any] | None:
        if self._process is None:
            self._process = _start(self._run_dir)
        deadline, self._patience_s = time.monotonic() + self._patience_s, _ANSWER_S
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return None
        stdin.write(question)  # short, and the last one was answered: it fits into the pipe
        stdin.flush()
        said = b""
        while not said.endswith(b"\n"):
            ready = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            more = os.read(stdout.fileno(), 2**20) if ready else b""
            if not more:
                return None
            said += more
        answer: dict[str, Any] = json.loads(said)
        return answer


def _start(run_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "supervisor.lifecycle.look", str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        cwd="/",
        start_new_session=True,
    )


def _answer(run_dir: Path, kind: str, names: list[str]) -> Any:
    if kind == "latest":
        return latest(run_dir, *names)
    if kind == "touch":
        return _touch(run_dir)
    path = run_dir / names[0]
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None if kind == "read" else False
    if kind == "exists":
        return facts is not None
    try:
        return durable.read_json(path)
    except ConfigError:
        return None


def _touch(run_dir: Path) -> bool:
    with contextlib.suppress(PermissionError, FileNotFoundError):
        os.utime(run_dir)
    return True


def main() -> None:
    """Entry point of the process."""
    run_dir = Path(sys.argv[1])
    for line in sys.stdin:
        kind, *names = json.loads(line)
        try:
            answer = {"found": _answer(run_dir, kind, names)}
        except OSError as error:
            answer = {"error": error.strerror or str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
