"""What a resume needs is kept while the run runs, by a process that may wait for the disk.

See :mod:`supervisor.lifecycle.keep`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from supervisor.front.notes import Notes
from supervisor.lifecycle import inputs
from supervisor.lifecycle.prepare import Prepared
from supervisor.market import cache
from supervisor.system.environment import child_environment


class Keeper:
    """Has the inputs of a run kept, and its journals synced, until it is let go.

    Parameters
    ----------
    run_dir : Path
        The run's directory.
    prepared : Prepared
        The run.
    notes : Notes
        Receive what could not be kept.
    """

    def __init__(self, run_dir: Path, prepared: Prepared, notes: Notes) -> None:
        self._run_dir, self._prepared, self._notes = run_dir, prepared, notes
        self._thread = threading.Thread(target=self._watch, name="allstop-keeper", daemon=True)
        self._hung_up, self._hang_up = -1, -1
        self._let_go = False

    @property
    def begun(self) -> bool:
        """Whether it was started."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin, in the background.

        Raises
        ------
        RuntimeError
            If no thread can be started.
        """
        # the process reads EOF at the other end when this one is closed, or this process dies
        self._hung_up, self._hang_up = os.pipe()
        try:
            self._thread.start()
        except RuntimeError:
            self.let_go()
            self._watch()  # once, here
            raise

    def let_go(self) -> None:
        """Have it end when what it does now is done. Harmless when repeated."""
        fd, self._hang_up = self._hang_up, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # it has ended
                os.write(fd, b".")  # a process that this one has forked may hold a copy
            os.close(fd)

    def has_ended(self, patience_s: float) -> bool:
        """Wait for its end; False if it took longer than a time in s."""
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _watch(self) -> None:
        """Run the process and pass on what it says: this thread never waits for the run's disk."""
        prepared = self._prepared
        cache.keep(prepared.bars)
        arguments: list[str] = []
        fds: list[int] = []
        memory: list[int] = []
        files = inputs.to_keep(prepared.plan, prepared.bars, prepared.function)
        try:
            for name, content in files.items():
                if isinstance(content, bytes):
                    memory.append(_in_memory(content))
                fds.append(memory[-1] if isinstance(content, bytes) else content)
                arguments.append(f"{name}={fds[-1]}")
            process = subprocess.Popen(
                [
                    sys.executable, "-P", "-m", "supervisor.lifecycle.keep", str(self._run_dir),
                    *arguments,
                ],
                pass_fds=fds,
                stdin=self._hung_up,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,
                text=True,
            )  # fmt: skip
        except OSError as error:
            self._notes.note(f"what resuming needs could not be kept: {error.strerror}")
            return
        finally:
            for fd in (self._hung_up, *memory):
                os.close(fd)
        with process:
            for line in process.stdout or ():
                self._notes.note(line.rstrip())


def _in_memory(content: bytes) -> int:
    fd = os.memfd_create("allstop-kept", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd
