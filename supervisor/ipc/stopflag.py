"""The stop flag: set-once words in anonymous shared memory, read without a lock.

Any process may be killed at any instruction, so nothing here can be *held*.
Each request level is a word of its own that only ever goes from 0 to 1:
whatever the order of writers, none can undo the stop of another.

A generation is one cache line. Clearing moves the flag to the next line and leaves the
old one unchanged: a run that was requested to stop still sees the request, and the next
run starts on a line that has not been written yet.

``multiprocessing.Event`` cannot serve here: ``is_set`` and ``wait`` take a lock
that a killed worker still holds (cpython#126434, cpython#75158).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Self

from supervisor.errors import CheckpointError
from supervisor.ipc import futex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from supervisor.ipc.device_flag import DeviceFlag

LINE_WORDS = 8
"""int64 words in one generation: 64 bytes, one cache line."""

_STOP, _DRAIN, _KILL, _REQUESTED_AT_NS, _REQUESTED_BY, _DISK_SILENT = range(6)
_SIZE = 1 << 20  # sparse: only lines that were written take memory
_LINES = _SIZE // (8 * LINE_WORDS)
_NO_COMBINATION = (
    "stop.{name}() belongs to the `stop` that a worker hands to a strategy function: "
    "this flag knows no combination to keep a state for"
)
_LOW_HALF = 0 if sys.byteorder == "little" else 4


class Level(IntEnum):
    """How urgently a run is to end."""

    DRAIN = 1
    """Finish the current chunks, take no more."""
    STOP = 2
    """Return at the next poll, keeping what is finished."""
    KILL = 3
    """End now; the flag is set only so that no worker starts anything new."""


class StopFlag:
    """A request to stop that many processes see and none can block.

    Has ``multiprocessing.Event``'s interface, so code written against an
    Event works unchanged, :attr:`array` for compiled code and :attr:`cuda`
    for kernels on a GPU. Survives ``fork`` as it is; may be pickled to a process
    of the same user while the process that pickles it lives.

    Notes
    -----
    ``clear`` starts a new generation. Objects attached to the old one (in
    other processes) keep seeing their stop; attach again, or call
    :meth:`rearm`, to follow.

    Examples
    --------
    >>> flag = StopFlag()
    >>> flag.is_set()
    False
    >>> flag.set()
    >>> flag.is_set(), flag.wait(timeout=0)
    (True, True)
    """

    def __init__(self) -> None:
        fd = os.memfd_create("allstop-flag", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        self._map(fd)
        self._words[0] = 1
        self._bind(1)

    @classmethod
    def from_fd(cls, fd: int, generation: int | None = None) -> Self:
        """Attach to the flag behind a descriptor, which this object then owns.

        Parameters
        ----------
        fd : int
            Descriptor of the flag's memory.
        generation : int, optional
            Generation to follow; the current one when left out.
        """
        flag = cls.__new__(cls)
        flag._map(fd)
        flag._bind(flag._words[0] if generation is None else generation)
        return flag

    def _map(self, fd: int) -> None:
        self._fd = fd
        self._memory = mmap.mmap(fd, _SIZE, mmap.MAP_SHARED)
        self._words = memoryview(self._memory).cast("q")
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def _bind(self, generation: int) -> None:
        self._generation = generation
        # line 0 is the header; after all lines were used, the first is reused
        self._line = LINE_WORDS * (1 + (generation - 1) % (_LINES - 1))
        self._stop = self._line + _STOP

    # -- multiprocessing.Event's interface ---------------------------------

    def is_set(self) -> bool:
        """Whether a stop (or a kill) was requested in this generation."""
        return self._words[self._stop] != 0

    def set(self) -> None:
        """Request a stop. Safe from any thread, process or signal handler."""
        self.request(Level.STOP)

    def clear(self) -> None:
        """Start a new generation, in which nothing is requested yet."""
        generation = self._words[0] + 1
        self._bind(generation)
        for word in range(self._line, self._line + LINE_WORDS):
            self._words[word] = 0
        self._words[0] = generation

    def wait(self, timeout: float | None = None) -> bool:
        """Block until a stop is requested or ``timeout`` seconds have passed.

        Returns
        -------
        bool
            Whether a stop is requested.
        """
        deadline = futex.monotonic_deadline(timeout)
        while not self.is_set():
            if not futex.wait(self._futex_address, 0, deadline):
                return self.is_set()
        return True

    # -- what an Event does not have ---------------------------------------

    def request(self, level: Level) -> None:
        """Request ``level``; a lower level than one already requested changes nothing."""
        words, line = self._words, self._line
        if words[line + _REQUESTED_AT_NS] == 0:
            words[line + _REQUESTED_BY] = os.getpid()
            words[line + _REQUESTED_AT_NS] = time.monotonic_ns()
        words[line + _DRAIN] = 1
        if level >= Level.KILL:
            words[line + _KILL] = 1
        if level >= Level.STOP:
            words[self._stop] = 1
            futex.wake_all(self._futex_address)

    def checkpoint(self, state: object) -> bool:
        """Save the state of the current combination; only the last one is kept.

        It survives the death of the worker, and :meth:`load_checkpoint` returns it when
        the combination is computed again.

        Parameters
        ----------
        state : object
            Anything that pickles.

        Returns
        -------
        bool
            False if it could not be written: then the previous one is kept.

        Raises
        ------
        CheckpointError
            If it cannot be pickled, or this is not the ``stop`` that a worker
            hands to a strategy function.
        """
        raise CheckpointError(_NO_COMBINATION.format(name="checkpoint"))

    def load_checkpoint(self, default: Any = None) -> Any:
        """Return what :meth:`checkpoint` saved last for this combination, or ``default``.

        Raises
        ------
        CheckpointError
            If this is not the ``stop`` that a worker hands to a strategy function.
        """
        raise CheckpointError(_NO_COMBINATION.format(name="load_checkpoint"))

    @property
    def rng(self) -> np.random.Generator:
        """A random generator of the combination's own, for a strategy function in a worker.

        It is derived from the run's seed and the combination, so it draws the same numbers
        whichever worker computes the combination, and in a resumed run. The generator of any
        other flag, as in a test of the function, is seeded by the system.
        """
        import numpy as np

        return np.random.default_rng()

    @property
    def level(self) -> Level | None:
        """Highest level requested in this generation, or None."""
        words, line = self._words, self._line
        for level, word in ((Level.KILL, _KILL), (Level.STOP, _STOP), (Level.DRAIN, _DRAIN)):
            if words[line + word]:
                return level
        return None

    @property
    def requested_at(self) -> float | None:
        """``time.monotonic()`` instant of the first request, in s, or None."""
        stamp = self._words[self._line + _REQUESTED_AT_NS]
        return stamp / 1e9 if stamp else None

    @property
    def disk_silent(self) -> bool:
        """Whether the run's disk does not answer: what is written when a stop has been requested
        would keep its process from ending.
        """
        return self._words[self._line + _DISK_SILENT] != 0

    def note_disk(self, *, silent: bool) -> None:
        """Note whether the run's disk answers; only the front does."""
        self._words[self._line + _DISK_SILENT] = silent

    @property
    def generation(self) -> int:
        """Number of the generation this object follows."""
        return self._generation

    def rearm(self) -> None:
        """Follow the current generation."""
        self._bind(self._words[0])

    @property
    def array(self) -> NDArray[np.int64]:
        """The generation's line, for ``workers.poll.stop_requested`` in compiled code.

        Returns
        -------
        ndarray of int64, shape (8,)
            A view of the shared memory; element 0 is non-zero once a stop is
            requested. Reading it in a nopython loop as a plain array element
            does not work: LLVM lifts the load out of the loop.
        """
        import numpy as np  # not needed to supervise a command, and half of its start-up

        return np.frombuffer(self._memory, np.int64, LINE_WORDS, self._line * 8)

    @property
    def cuda(self) -> DeviceFlag:
        """The flag on a GPU, for kernels: :class:`supervisor.ipc.device_flag.DeviceFlag`.

        On the device of the calling thread's CUDA context, or the first device where it has
        none. Opened when first asked for; after :meth:`clear` or :meth:`rearm` it is another.

        Raises
        ------
        CudaError
            If the device cannot be used.
        UnsupportedPlatformError
            If there is no NVIDIA driver.
        """
        from supervisor.ipc.device_flag import open_line  # only where there is a GPU
        from supervisor.ipc.device_word import Line

        word = self._base + self._stop * 8
        return open_line(Line(self._memory, word, self._futex_address, self._generation))

    @property
    def device_pointer(self) -> int:
        """Device address of an int64 word that is non-zero once a stop is requested.

        What :attr:`cuda` gives, for kernels that poll it by a volatile load. A plain load
        does not work: compilers lift it out of the loop.
        """
        return self.cuda.pointer

    def fileno(self) -> int:
        """Descriptor of the flag's memory."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor; the mapping ends with the last reference to it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        level = self.level
        state = "not set" if level is None else level.name.lower()
        return f"<StopFlag generation {self._generation}: {state}>"

    def __reduce__(self) -> tuple[Callable[..., StopFlag], tuple[Any, ...]]:
        return _attach, (os.getpid(), self._fd, self._generation)

    @property
    def _futex_address(self) -> int:
        return self._base + self._stop * 8 + _LOW_HALF


def _attach(pid: int, fd: int, generation: int) -> StopFlag:
    return StopFlag.from_fd(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC), generation)
