"""Code that runs against the fake ``libcuda.so.1``, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.support.cli import ROOT
from tests.support.gpu.fakes import build, environment
from tests.support.waiting import DEADLINE_S

PRELUDE = """\
import ctypes, os, threading, time
from supervisor.errors import ConfigError
from supervisor.ipc import device_flag
from supervisor.ipc.stopflag import StopFlag
from supervisor.system import cuda

fake = ctypes.CDLL(cuda.LIBRARY) if {loaded} else None

class Kernel:
    '''Polls the word at a device address, as a kernel does, until it is non-zero.'''

    def __init__(self, pointer):
        fake.fake_kernel_start.restype = ctypes.c_void_p
        self._kernel = ctypes.c_void_p(fake.fake_kernel_start(ctypes.c_uint64(pointer)))

    @property
    def done(self):
        return bool(fake.fake_kernel_done(self._kernel))

def refused(call):
    try:
        call()
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"
    return "not refused"
"""


class Call(NamedTuple):
    """A call of the driver: who made it, what for, and its result."""

    pid: int
    name: str
    arguments: tuple[str, ...]
    code: int


@dataclass
class FakeCuda:
    """A machine with one fake device; ``home`` holds its settings and its record of calls."""

    home: Path

    def set(self, *settings: str) -> None:
        """Set how the driver behaves, see ``fake_libcuda.c``; takes effect at its next call."""
        path = self.home / "settings"
        new = path.with_suffix(".new")
        new.write_text("\n".join(settings))
        new.rename(path)

    def environment(self, **variables: str) -> dict[str, str]:
        """Environment of a process that finds the fake driver."""
        library = build("fake_libcuda.c", "libcuda.so.1")
        return environment(library, FAKE_CUDA=str(self.home), **variables)

    def run(self, code: str, *, loaded: bool = True, **variables: str) -> str:
        """Run ``code`` in a process that has the driver; return what it prints.

        ``loaded`` says whether the driver's library is loaded from the start.
        """
        program = PRELUDE.format(loaded=loaded) + textwrap.dedent(code)
        ended = subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", program],
            env=self.environment(PYTHONPATH=str(ROOT), **variables),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        if ended.returncode:
            raise AssertionError(f"exit status {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return ended.stdout.strip()

    def calls(self, *names: str) -> list[Call]:
        """Return the calls that were made, or those of some names, in order."""
        path = self.home / "calls"
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            call, _, code = line.rpartition(" = ")
            pid, name, *arguments = call.split()
            found.append(Call(int(pid), name, tuple(arguments), int(code)))
        return [call for call in found if not names or call.name in names]


def page_size() -> int:
    """Return the size of a page, in bytes."""
    return os.sysconf("SC_PAGE_SIZE")
