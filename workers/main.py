"""The worker's loop: receive a chunk, compute it, append its rows, report it.

A worker holds nothing that another process waits for. It may be killed at any
instruction: what it wrote to its journal stays, and the rest of its chunk is
computed again by another worker.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import AllstopError, ConfigError, DeviceLostError, DiskSilentError
from supervisor.ipc import device_flag, messages
from supervisor.ipc.device_flag import DeviceFlag
from supervisor.ipc.progress_table import ProgressTable
from supervisor.ipc.stopflag import StopFlag
from supervisor.records import rundir
from supervisor.records.plan import ALLOCATION
from supervisor.rows import cells
from supervisor.rows.journal import JournalWriter
from supervisor.rows.ranking import Places, Ranking
from supervisor.system import private, process
from workers.backend import Backend
from workers.gpu import own_device

OOM_SCORE = 500
"""Where memory runs out, the kernel should kill a worker, which is replaced, and
neither the warden nor the user's own program (proc(5), ``oom_score_adj``)."""

DUMP_SIGNAL = signal.SIGUSR1


@dataclass(frozen=True, slots=True)
class Station:
    """What a worker is given: its number, its socket to the warden, its shared memory.

    ``pid`` is its pid as the front and the user see it, which in a PID namespace
    differs from what ``os.getpid()`` returns.
    """

    slot: int
    serial: int
    pid: int
    link: socket.socket
    flag: StopFlag
    table: ProgressTable
    run_id: str
    run_dir: Path
    cwd: str = ""
    """Working directory for a user's function: where the run was requested, even if it is
    resumed from elsewhere. Empty: any."""
    device: str = ""
    """The GPU that this worker has, and the only one that it sees. Empty: none was chosen."""
    vram_bytes: int | None = None
    """Memory of it that the worker may use, where that is limited."""
    ranking: Ranking = field(default_factory=Ranking)
    """Which of its combinations it calls the best."""
    parameters: tuple[str, ...] = ()
    """Their names: a metric that is called like one has another name in results."""

    @property
    def journal_path(self) -> Path:
        """The journal that only this worker writes."""
        return self.run_dir / rundir.JOURNAL_DIR / f"worker-{self.serial:04d}.bin"

    @property
    def log_path(self) -> Path:
        """Where this worker's standard output and error go."""
        return self.run_dir / rundir.LOG_DIR / f"worker-{self.serial:04d}.log"


def run_worker(station: Station, backend: Backend) -> None:
    """Work until the warden closes the socket or a stop is requested.

    Never raises: a failure that is not one combination's own is reported to
    the warden as :class:`~supervisor.ipc.messages.WorkerBroken`, or as
    :class:`~supervisor.ipc.messages.DeviceLost`.
    """
    try:
        _settle_in(station)
        if station.device:
            os.environ.update(own_device(station.device, station.vram_bytes, os.environ))
        device_flag.report_to(functools.partial(_report_device_flag, station.link))
        backend.start()
        with contextlib.closing(
            JournalWriter(station.journal_path, station.run_id, station.serial)
        ) as journal:
            messages.send(station.link, messages.WorkerReady())
            _work(station, backend, journal)
    except DeviceLostError as error:
        _report_lost(station, error)
    except AllstopError as error:
        _report_broken(station, str(error), usage=isinstance(error, ConfigError))
    except Exception as error:  # noqa: BLE001 - the last line of defence: reported, not swallowed
        import traceback

        traceback.print_exc()
        _report_broken(station, f"{type(error).__name__}: {error}", usage=False)


def _settle_in(station: Station) -> None:
    process.set_title(f"allstop-w{station.slot}")
    os.environ["ALLSTOP_WORKER"] = str(station.slot)
    log = private.open_regular(station.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    if station.cwd:
        _go_to(station.cwd)
    # Ctrl+C and a closed terminal are handled by the front: it stops us through the flag
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if ALLOCATION in os.environ:
        # the cluster sends it to every process of the job at once: the front receives it too and
        # begins the ordered stop. A handler, not "ignored": children of the strategy must get it
        signal.signal(signal.SIGTERM, lambda *_: None)
    else:
        # the kernel's own SIGTERM ends a worker in a compiled kernel, a Python handler would not
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.register(DUMP_SIGNAL, all_threads=True, chain=False)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    station.table.rows[station.slot]["pid"] = station.pid


def _go_to(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        raise ConfigError(
            f"{cwd}: the run's working directory cannot be entered ({error.strerror})"
        ) from None


def _work(station: Station, backend: Backend, journal: JournalWriter) -> None:
    while station.flag.level is None:
        message, _ = messages.receive(station.link)
        if not isinstance(message, messages.Compute):
            return  # the warden has closed the socket: no more work, or no more warden
        chunk = ChunkInHand(station, journal, message.start, message.stop)
        try:
            until = backend.evaluate(chunk)
        except DiskSilentError:
            return  # a resumed run computes these rows again
        messages.send(station.link, messages.Computed(chunk.start, until))


def _report_device_flag(link: socket.socket, flag: DeviceFlag) -> None:
    messages.send(link, messages.DeviceFlagOpened(flag.tier, messages.clip(flag.why)))


def _report_lost(station: Station, error: DeviceLostError) -> None:
    """Report that the device is lost; a worker without one cannot lose it: it is broken."""
    if not station.device:
        _report_broken(station, str(error), usage=False)
        return
    lost = messages.DeviceLost(station.device, messages.clip(str(error)), gone=error.gone)
    messages.send(station.link, lost)


def _report_broken(station: Station, error: str, *, usage: bool) -> None:
    messages.send(station.link, messages.WorkerBroken(error=messages.clip(error), usage=usage))


@functools.lru_cache(maxsize=64)
def _places(
    ranking: Ranking, columns: tuple[str, ...], parameters: tuple[str, ...]
) -> Places | None:
    return ranking.places(columns, parameters)


class ChunkInHand:
    """The chunk a worker is computing (see :class:`workers.backend.Chunk`)."""

    def __init__(self, station: Station, journal: JournalWriter, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.stop_flag = station.flag
        self.checkpoints = station.run_dir / rundir.CHECKPOINT_DIR
        self.flag: NDArray[np.int64] = station.flag.array
        self._journal = journal
        self._link = station.link
        self._ranking, self._parameters = station.ranking, station.parameters
        self._row = station.table.rows[station.slot : station.slot + 1]
        self.progress: NDArray[np.int64] = self._row["done"]
        # first: killed in between, the row must not pair this chunk with the rows of another
        self._row["kept_until"] = start
        self._row["chunk_start"] = start
        self._row["chunk_stop"] = stop
        self.stop_requested: Callable[[], bool] = station.flag.is_set

    def keep(
        self,
        start: int,
        columns: tuple[str, ...],
        rows: NDArray[np.float64],
        *,
        stop: int | None = None,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        """Append finished rows to the journal; only then count them.

        Raises
        ------
        DiskSilentError
            If a stop was requested while the disk does not answer: nothing, not even SIGKILL,
            would end a process that waits for it.
        """
        self._check_disk()
        self._journal.append(start, columns, rows, stop=stop, indices=indices)
        self._count(start + len(rows) if stop is None else stop, len(rows))
        best = self._best(columns, rows)
        if best is not None:
            at, value = best
            # the index first: a reader in between sees an old value with it, for an instant
            self._row["best_index"] = start + at if indices is None else indices[at]
            self._row["best_value"] = value

    def keep_value(self, metric: str, kind: str, value: str | int) -> float:
        """Write a metric that is no number; return what stands for it in a row."""
        return cells.reference(self._journal.append_value(metric, kind, value))

    def remark(self, text: str) -> None:
        """Have the report mention something, once however many workers say it."""
        messages.send(self._link, messages.Remark(messages.clip(text)))

    def keep_failed(self, index: int, error: str) -> None:
        """Record a combination as failed; the sweep continues."""
        self._check_disk()
        self._journal.append_failed(index, messages.clip(error))
        self._count(index + 1, 1)
        self._row["failed"] += 1

    def _check_disk(self) -> None:
        if self.stop_flag.disk_silent and self.stop_flag.is_set():
            raise DiskSilentError("rows cannot be kept: the disk does not answer")

    def _count(self, until: int, n: int) -> None:
        self._row["kept_until"] = until
        self._row["kept"] += n

    def _best(
        self, columns: tuple[str, ...], rows: NDArray[np.float64]
    ) -> tuple[int, float] | None:
        """Position and score of the best row; None if it is not the best so far."""
        places = _places(self._ranking, columns, self._parameters)
        if places is None or len(rows) == 0:
            self._row["unranked"] |= places is None
            return None
        trades = None if places.trades is None else rows[:, places.trades]
        scores = self._ranking.scores(rows[:, places.metric], trades)
        at = int(np.argmax(scores))
        return (at, float(scores[at])) if scores[at] > self._row["best_value"][0] else None
