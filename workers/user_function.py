"""The backend for a user's function: any Python callable, one combination per call.

The function is imported, or unpickled, in the worker after the fork and never
earlier: it may start threads or open a CUDA context.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DeviceLostError, RunFailedError, UserFunctionError
from supervisor.ipc.device_flag import DeviceFlag
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.bars import Bars
from supervisor.rows.grid import Grid
from supervisor.system.cuda import CudaError
from workers import gpu, metrics, seeds
from workers.backend import Chunk
from workers.checkpoint import CheckpointFile
from workers.failure import describe
from workers.function_home import Strategy
from workers.seeds import Saved, Seeds

KEEP_EVERY_S = 0.005
KEEP_ROWS = 16
"""A row is written at once where a call takes longer than 5 ms, and with at most 15
others where calls are shorter: the next call may hang, and end in a SIGKILL."""


class UserFunction:
    """Backend for a strategy that is a Python function.

    Parameters
    ----------
    load : callable
        Returns the function; called in the worker.
    bars : Bars
        Handed to every call.
    grid : Grid
        Decodes combinations.
    seed : int
        The run's: what the random numbers of a combination are derived from.
    """

    batch = 1

    def __init__(self, load: Callable[[], Strategy], bars: Bars, grid: Grid, seed: int = 0) -> None:
        self._load = load
        self._bars = bars
        self._grid = grid
        self._seed = seed
        self._seeds: Seeds | None = None
        self._said: set[str] = set()
        self._function: Strategy | None = None
        self._flag: PolledFlag | None = None

    def prepare(self) -> None:
        """Do nothing: the function must not be loaded before the fork."""

    def start(self) -> None:
        """Load the function in this worker."""
        self._seeds = Seeds(self._seed)
        self._seeds.begin(seeds.LOADING)  # a module may draw when it is imported
        self._function = self._load()

    def evaluate(self, chunk: Chunk) -> int:
        """Call the function once per combination, keeping rows as time passes."""
        if self._function is None or self._seeds is None:
            raise UserFunctionError("the function was not loaded: start() comes first")
        pending = _PendingRows(chunk)
        worker = os.getpid()
        flag = self._flag = self._flag or PolledFlag.following(chunk)
        flag.seeds = self._seeds
        for index in range(chunk.start, chunk.stop):
            if chunk.stop_requested():
                pending.flush()
                return index
            flag.begin(chunk.checkpoints, index)
            self._seeds.begin(index)
            try:
                row, error = self._call(index, flag, chunk, worker)
            except DeviceLostError:
                pending.flush()
                raise
            if flag.told_to_stop() or (row is None and error is None and chunk.stop_requested()):
                pending.flush()
                return index
            if row is not None:
                pending.add(index, row)
            else:
                pending.flush()
                chunk.keep_failed(index, error or "returned None though no stop was requested")
            if flag.has_checkpoint:
                pending.flush()  # its state may be removed only once its row is kept
                flag.drop_checkpoint()
            chunk.progress[0] += 1
            if row is None:
                _check_device()
        pending.flush()
        return chunk.stop

    def _call(
        self, index: int, flag: PolledFlag, chunk: Chunk, worker: int
    ) -> tuple[dict[str, float] | None, str | None]:
        """Compute one combination; whatever the function raises is the combination's failure.

        A child that the function has forked, and that returns from it, ends here.

        Raises
        ------
        DeviceLostError
            If the function says so, or the device is absent or lost where it asks for the flag.
        """
        assert self._function is not None
        returned = False
        try:
            found = self._function(self._bars, self._grid.params(index), flag)
            if os.getpid() != worker:
                _end_child()
            returned = True
            return (None if found is None else metrics.row(found, chunk, self._said)), None
        except BaseException as error:
            if os.getpid() != worker:
                _end_child(error)
            lost = isinstance(error, DeviceLostError)
            if lost or (returned and isinstance(error, RunFailedError)):  # the disk takes no text
                raise
            return None, _device_failure(error) or describe(error)


def _device_failure(error: BaseException) -> str:
    """Describe an error of our own call: the flag was asked for on the device.

    Raises
    ------
    DeviceLostError
        If the device is absent or lost.
    """
    if not isinstance(error, CudaError):
        return ""
    if gpu.is_lost(error):
        raise DeviceLostError(str(error)) from None
    return describe(error)


class PolledFlag(StopFlag):
    """A stop flag that remembers whether its caller was told to stop.

    A function that polled the flag and was told to stop may have returned
    early: what it returns is not a result, and the combination is computed
    again by a resumed run. One that was never told has finished.
    """

    _told = False
    _words_handed_out = False
    _checkpoints: Path | None = None
    _index = 0
    _rng: np.random.Generator | None = None
    seeds: Seeds | None = None
    has_checkpoint = False
    """Whether the combination has saved or loaded a state, to be removed once its row is kept."""

    @classmethod
    def following(cls, chunk: Chunk) -> Self:
        """Attach to the flag of the chunk's run."""
        return cls.from_fd(os.dup(chunk.stop_flag.fileno()), chunk.stop_flag.generation)

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        if super().is_set():
            self._told = True
            return True
        return False

    @property
    def array(self) -> NDArray[np.int64]:
        """The shared words, for compiled code, whose reads cannot be observed."""
        self._words_handed_out = True
        return super().array

    @property
    def cuda(self) -> DeviceFlag:
        """The flag on a GPU, for kernels, whose reads cannot be observed either."""
        self._words_handed_out = True
        return super().cuda

    @property
    def rng(self) -> np.random.Generator:
        """The combination's own generator; see :attr:`StopFlag.rng`."""
        if self.seeds is None:
            return super().rng
        if self._rng is None:
            self._rng = seeds.generator(self.seeds.seed, self._index)
        return self._rng

    def begin(self, checkpoints: Path, index: int) -> None:
        """Begin the next combination; its state is kept in ``checkpoints``."""
        self._checkpoints = checkpoints
        self._index = index
        self._rng = None
        self.has_checkpoint = False

    def checkpoint(self, state: object) -> bool:
        """Save the combination's state; see :meth:`StopFlag.checkpoint`."""
        if self._checkpoints is None:
            return super().checkpoint(state)
        if self.disk_silent and super().is_set():
            return False  # nothing would end a process that waits for the disk
        self.has_checkpoint = True
        if self.seeds is not None:  # a resumed combination goes on with the next numbers
            states = self.seeds.states()
            if self._rng is not None:
                states["rng"] = self._rng.bit_generator.state
            state = Saved(state, states)
        return CheckpointFile(self._checkpoints, self._index).save(state)

    def load_checkpoint(self, default: Any = None) -> Any:
        """Give the combination's state back; see :meth:`StopFlag.load_checkpoint`."""
        if self._checkpoints is None:
            return super().load_checkpoint(default)
        self.has_checkpoint = True
        found = CheckpointFile(self._checkpoints, self._index).load(default)
        if not isinstance(found, Saved) or self.seeds is None:
            return found  # none, or of before there were seeds
        self.seeds.restore(found.generators)
        if "rng" in found.generators:
            self.rng.bit_generator.state = found.generators["rng"]
        return found.state

    def drop_checkpoint(self) -> None:
        """Remove the combination's state once its row is kept."""
        if self._checkpoints is not None:
            CheckpointFile(self._checkpoints, self._index).remove()

    def told_to_stop(self) -> bool:
        """Whether the function can have seen a stop."""
        return self._told or (self._words_handed_out and super().is_set())


class _PendingRows:
    """Consecutive rows with the same columns, written together."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._start = chunk.start
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[float, ...]] = []
        self._kept_at = time.monotonic()

    def add(self, index: int, metrics: dict[str, float]) -> None:
        columns = tuple(metrics)
        if columns != self._columns or index != self._start + len(self._rows):
            self.flush()
            self._start, self._columns = index, columns
        self._rows.append(tuple(metrics.values()))
        late = time.monotonic() - self._kept_at >= KEEP_EVERY_S
        if late or len(self._rows) >= KEEP_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._chunk.keep(self._start, self._columns, np.array(self._rows, dtype=np.float64))
            self._start += len(self._rows)
            self._rows = []
        self._kept_at = time.monotonic()


def _end_child(error: BaseException | None = None) -> NoReturn:
    """End a forked child that returned from the function, or raised something in it.

    It would compute what the worker computes, and take chunks from the worker's socket.
    """
    code = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit):
            code = _exit_code(error)
        elif error is not None:
            sys.stderr.write(f"a forked child ended: {describe(error)}\n")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)  # whatever a flush raises: it would be reported as the worker's own end


def _exit_code(error: SystemExit) -> int:
    """Return the exit code that Python gives a process which ``sys.exit`` ends."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    with contextlib.suppress(BaseException):
        sys.stderr.write(f"{error.code}\n")
    return 1


def _check_device() -> None:
    """Raise where a failed combination has broken this process's GPU for all that follow.

    It is recorded as failed; they are computed by another worker.
    """
    problem = gpu.broken()
    if problem is not None:
        raise DeviceLostError(str(problem), gone=gpu.is_lost(problem))
