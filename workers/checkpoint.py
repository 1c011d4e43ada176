"""The state of one long backtest, saved while it computes and given back when it is computed again.

One file per combination in ``<run_dir>/checkpoints/``, the last state only. It is
written whole or not at all, so a worker may be killed at any instruction; it goes when
the combination's row is in the journal.

::

    magic and version, CRC of what follows, pickle (by cloudpickle or dill where pickle cannot)
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from supervisor.errors import CheckpointError, UntrustedError
from supervisor.system import private
from supervisor.system.durable import sync_directory

_MAGIC = b"fs-ckpt1"
_HEAD = struct.Struct("<8sI")


class CheckpointFile:
    """Where one combination keeps its state.

    Parameters
    ----------
    directory : Path
        The run's checkpoints; made when the first one is saved.
    index : int
        The combination.
    """

    def __init__(self, directory: Path, index: int) -> None:
        self.path = directory / f"{index}.ckpt"
        # one name, not one per process: only one worker at a time computes a combination, and
        # what a killed one left half-written is removed; no other user can write here
        self._partial = directory / f"{index}.tmp"

    def save(self, state: object) -> bool:
        """Put ``state`` in the place of the last one; False, and a line in the log, if the
        disk does not take it: the last one is kept then.

        Raises
        ------
        CheckpointError
            If it cannot be pickled.
        """
        data = _pickled(state)
        try:
            private.make_directory(self.path.parent)
            with open(self._partial, "wb", opener=_anew) as file:
                file.write(_HEAD.pack(_MAGIC, zlib.crc32(data)))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._partial.replace(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            _warn(f"{self.path} could not be saved ({error.strerror}): the last one is kept")
            return False
        except UntrustedError as error:
            _warn(f"{error}: the last one is kept")
            return False
        return True

    def load(self, default: Any = None) -> Any:
        """Return the last state that was saved; ``default`` if there is none that can be read."""
        try:
            raw = private.read_bytes(self.path)
        except FileNotFoundError:
            return default
        except UntrustedError as error:
            _warn(f"{error}: ignored")
            return default
        except OSError as error:
            _warn(f"{self.path} cannot be read ({error.strerror}): ignored")
            return default
        if len(raw) < _HEAD.size or _HEAD.unpack_from(raw) != (
            _MAGIC,
            zlib.crc32(raw[_HEAD.size :]),
        ):
            _warn(f"{self.path} is damaged: ignored")
            return default
        from workers.function_pickle import loads

        try:
            return loads(raw[_HEAD.size :])
        except Exception as error:  # noqa: BLE001 - whatever the user's classes trip over
            _warn(f"{self.path} cannot be unpickled ({type(error).__name__}: {error}): ignored")
            return default

    def remove(self) -> None:
        """Remove the state: the combination has its row."""
        self.path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)


def _pickled(state: object) -> bytes:
    try:
        data = pickle.dumps(state, protocol=5)
        # classes of a script or notebook are pickled by name, and another worker has no such name
        if b"__main__" not in data:
            return data
    except Exception:  # noqa: BLE001 - others may know better; if not, they say why
        pass
    from workers.function_pickle import dumps

    try:
        return dumps(state)
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint's state, a {type(state).__name__}, cannot be pickled: "
            f"{type(error).__name__}: {error}"
        ) from error


def _anew(path: str, flags: int) -> int:
    """Open a file that is not there before: what a killed worker has left is removed."""
    Path(path).unlink(missing_ok=True)
    return private.open_regular(path, flags | os.O_EXCL)


def _warn(line: str) -> None:
    """Say it where the worker's output goes: its log."""
    sys.stderr.write(f"checkpoint: {line}\n")
    sys.stderr.flush()
