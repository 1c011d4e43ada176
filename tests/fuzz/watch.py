"""Sees what a round does outside: processes signalled or started, files changed, jobs cancelled.

Python reports each such call to an audit hook before it makes it, and pidfd signals are caught
where the code makes them. The cluster is a transport that records what is asked of it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slurm import cancel, client, reconcile
from slurm.records import absence, book
from slurm.transport import Answer
from supervisor.lifecycle import jobs, staging
from supervisor.system import silent_disk
from tests.fuzz.sample import OURS, SUBMITTED_AT, TOKEN

FOREIGN = ("13", "4713", "471", "47111", "0", "1")
"""Jobs of the same user that are not the run's; damaged ids may name them."""

_CHANGES = {
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link",
    "os.symlink", "os.truncate", "os.utime", "shutil.rmtree", "shutil.move",
}  # fmt: skip
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Controller:
    """A cluster with our jobs and foreign ones; it is reached as ``local`` is."""

    name, address = "this machine", "local"

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.cancelled: list[str] = []

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", variables: Mapping[str, str] = {},
        timeout_s: float = 0,
    ) -> Answer:  # fmt: skip
        match argv[0]:
            case "squeue":
                begin = argv[-1].removeprefix("--format=").partition("%")[0]
                rows = [*self._rows(OURS, TOKEN), *self._rows(FOREIGN, "somebody-elses")]
                return Answer(0, "\n".join(begin + row for row in ["head", *rows]) + "\n", "")
            case "scancel":
                ids = [word for word in argv[1:] if not word.startswith("-")]
                self.cancelled += ids
                self.gone |= set(ids)
                return Answer(0, "", "")
            case "id":
                return Answer(0, f"{os.getuid()}\n", "")
        return Answer(0, "Restarts=0 Priority=0 ", "")

    def _rows(self, ids: Sequence[str], wckey: str) -> Iterator[str]:
        for job_id in ids:
            state = "CANCELLED" if job_id in self.gone else "RUNNING"
            submitted_at = SUBMITTED_AT if job_id in OURS else "1700000000"
            yield f"{job_id}|{job_id}|N/A|{state}|{submitted_at}|{wckey}|sweep"

    def close(self) -> None:
        """Nothing is open."""


class Clock:
    """Time that passes only when somebody sleeps: the waits of a cancel take no time."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def monotonic(self) -> float:
        self.now += 1e-3
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Watch:
    """What rounds have done, since the last :meth:`begin`.

    Attributes
    ----------
    effects : list of str
        What touched something that is not the run's.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._on = False
        self.effects: list[str] = []
        self.controller = Controller()
        sys.addaudithook(self._hear)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look at what happens meanwhile; nothing real is started, signalled or cancelled."""
        self.effects, self.controller = [], Controller()
        seams: list[tuple[Any, str, Any]] = [
            (module, "time", Clock()) for module in (cancel, absence, book)
        ]
        seams += [
            (module, "connect", self._connect) for module in (client, reconcile, jobs, staging)
        ]
        seams += [(signal, "pidfd_send_signal", self._signalled)]
        before = [(holder, name, getattr(holder, name)) for holder, name, _ in seams]
        for holder, name, instead in seams:
            setattr(holder, name, instead)
        self._on = True
        try:
            yield
        finally:
            self._on = False
            for holder, name, real in before:
                setattr(holder, name, real)
        strangers = [one for one in self.controller.cancelled if one not in OURS]
        self.effects += [f"cancelled foreign job {one}" for one in strangers]

    def _connect(self, address: str = "local", variables: Mapping[str, str] = {}) -> Controller:
        from slurm.connect import connect

        connect(address, variables).close()  # what it refuses, it refuses here too
        return self.controller

    def _signalled(self, pidfd: int, number: int, *_: object) -> None:
        target = Path(f"/proc/self/fdinfo/{pidfd}").read_text().partition("\nPid:")[2].split()[0]
        self.effects.append(f"signal {number} to pid {target}")

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "subprocess.Popen" and silent_disk.TOUCH in arguments[1]:
            self._changed("os.utime", arguments[1][-1])
        elif event in _STARTS and event != "os.fork":
            self.effects.append(f"{event} {arguments[:2]!r}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            self._changed(event, arguments[0])
        elif event in _CHANGES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._changed(event, path)

    def _changed(self, event: str, path: object) -> None:
        if isinstance(path, int) or path is None:
            return  # what is open already, it was seen to open
        where = os.path.abspath(os.fsencode(path))  # noqa: PTH100 - bytes
        ours = where.startswith(self._root + b"/") and b"/foreign" not in where
        if not (ours or where.startswith((b"/dev/", b"/proc/self/fd/"))):
            self.effects.append(f"{event} {os.fsdecode(where)}")
