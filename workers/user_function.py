"""The backend for a user's function: any Python callable, one combination per call.

The function is imported, or unpickled, in the worker after the fork and never
earlier: it may start threads or open a CUDA context.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError, DeviceLostError, UserFunctionError
from supervisor.ipc.device_flag import DeviceFlag
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.bars import Bars
from supervisor.rows.grid import Grid, Value
from supervisor.system.cuda import CudaError
from workers import gpu
from workers.backend import Chunk
from workers.checkpoint import CheckpointFile

Strategy = Callable[[Bars, Mapping[str, Value], StopFlag], Mapping[str, float] | None]

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
    """

    batch = 1

    def __init__(self, load: Callable[[], Strategy], bars: Bars, grid: Grid) -> None:
        self._load = load
        self._bars = bars
        self._grid = grid
        self._function: Strategy | None = None
        self._flag: PolledFlag | None = None

    def prepare(self) -> None:
        """Do nothing: the function must not be loaded before the fork."""

    def start(self) -> None:
        """Load the function in this worker."""
        self._function = self._load()

    def evaluate(self, chunk: Chunk) -> int:
        """Call the function once per combination, keeping rows as time passes."""
        if self._function is None:
            raise UserFunctionError("the function was not loaded: start() comes first")
        pending = _PendingRows(chunk)
        worker = os.getpid()
        flag = self._flag = self._flag or PolledFlag.following(chunk)
        for index in range(chunk.start, chunk.stop):
            if chunk.stop_requested():
                pending.flush()
                return index
            flag.begin(chunk.checkpoints, index)
            try:
                row, error = self._call(index, flag)
            except DeviceLostError:
                if os.getpid() == worker:
                    pending.flush()
                    raise
                _end_child()
            if os.getpid() != worker:
                _end_child()
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

    def _call(self, index: int, flag: PolledFlag) -> tuple[dict[str, float] | None, str | None]:
        """Compute one combination; an exception of the function is the combination's failure.

        Raises
        ------
        DeviceLostError
            If the function says so, or the device is absent or lost where it asks for the flag.
        """
        assert self._function is not None
        try:
            metrics = self._function(self._bars, self._grid.params(index), flag)
            return (None if metrics is None else _checked(metrics)), None
        except DeviceLostError:
            raise
        except CudaError as error:  # our own call's: the flag was asked for on the device
            if gpu.is_lost(error):
                raise DeviceLostError(str(error)) from None
            return None, _one_line(error)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            return None, _one_line(error)


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

    def begin(self, checkpoints: Path, index: int) -> None:
        """Begin the next combination; its state is kept in ``checkpoints``."""
        self._checkpoints = checkpoints
        self._index = index
        self.has_checkpoint = False

    def checkpoint(self, state: object) -> bool:
        """Save the combination's state; see :meth:`StopFlag.checkpoint`."""
        if self._checkpoints is None:
            return super().checkpoint(state)
        if self.disk_silent and super().is_set():
            return False  # nothing would end a process that waits for the disk
        self.has_checkpoint = True
        return CheckpointFile(self._checkpoints, self._index).save(state)

    def load_checkpoint(self, default: Any = None) -> Any:
        """Give the combination's state back; see :meth:`StopFlag.load_checkpoint`."""
        if self._checkpoints is None:
            return super().load_checkpoint(default)
        self.has_checkpoint = True
        return CheckpointFile(self._checkpoints, self._index).load(default)

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


def _end_child() -> NoReturn:
    """End a forked child that returned from the function.

    It would compute what the worker computes, and take chunks from the worker's socket.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)  # whatever a flush raises: it would be reported as the worker's own end


def _check_device() -> None:
    """Raise where a failed combination has broken this process's GPU for all that follow.

    It is recorded as failed; they are computed by another worker.
    """
    problem = gpu.broken()
    if problem is not None:
        raise DeviceLostError(str(problem), gone=gpu.is_lost(problem))


def _checked(metrics: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise UserFunctionError(
            f"a strategy returns a dict of floats, not {type(metrics).__name__}"
        )
    if not metrics:
        raise UserFunctionError("a strategy returned an empty dict: name at least one metric")
    row = {}
    for name, value in metrics.items():
        try:
            row[str(name)] = float(value)
        except (TypeError, ValueError):
            raise UserFunctionError(
                f"metric {name!r} is {type(value).__name__}, not a number"
            ) from None
    return row


def _one_line(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())


def importer(spec: str) -> Callable[[], Strategy]:
    """Loader of ``module:function`` or ``path/to/file.py:function``.

    Raises
    ------
    ConfigError
        (from the loader) if the module, file or function is not there.
    """

    def load() -> Strategy:
        home, _, name = spec.rpartition(":")
        module = _import_file(home) if home.endswith(".py") else _import_module(home)
        target: Any = module
        for part in name.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            known = sorted(
                n for n, v in vars(module).items() if callable(v) and not n.startswith("_")
            )
            raise ConfigError(
                f"strategy {spec!r}: {home} has no function {name!r}; "
                f"it has: {', '.join(known) or 'none'}",
                key="strategy",
            )
        strategy: Strategy = target
        return strategy

    return load


def _import_module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(
            f"strategy module {name!r} cannot be imported: {_one_line(error)}", key="strategy"
        ) from error


def _import_file(path: str) -> Any:
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"strategy file {path} does not exist", key="strategy")
    # its neighbours are importable, as they are when Python runs the file itself
    sys.path.insert(0, str(file.parent))
    name = file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"strategy file {path} is not a Python file", key="strategy")
    if isinstance(spec.loader, SourceFileLoader):
        spec.loader = _AsItIs(name, str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"strategy file {path} cannot be imported: {_one_line(error)}", key="strategy"
        ) from error
    return module


class _AsItIs(SourceFileLoader):
    """Compiles a file as it is, and keeps no bytecode of it.

    Python tells bytecode from that of an earlier version by the file's size and the second
    it was written in: a number edited twice in one second would be computed with as it was.
    """

    def path_stats(self, path: object) -> NoReturn:
        """Without the time there is nothing to compare, and nothing to write."""
        raise OSError(f"{path}: bytecode is not used")


def unpickler(fd: int) -> Callable[[], Strategy]:
    """Loader of a callable that was pickled by dill into the file behind ``fd``."""

    def load() -> Strategy:
        import dill

        data = os.pread(fd, os.fstat(fd).st_size, 0)
        try:
            strategy: Strategy = dill.loads(data)
        except Exception as error:
            raise UserFunctionError(
                f"the function cannot be rebuilt in a worker: {_one_line(error)}"
            ) from error
        return strategy

    return load


def pickle_function(function: Strategy) -> bytes:
    """Dill a callable, closures and notebook functions included.

    Raises
    ------
    ConfigError
        If it, or something it refers to, cannot be pickled.
    """
    import dill

    try:
        data: bytes = dill.dumps(function, recurse=True)
    except Exception as error:
        raise ConfigError(
            f"the function cannot be sent to a worker: {_one_line(error)}", key="strategy"
        ) from error
    return data
