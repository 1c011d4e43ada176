"""A worker that has rows to write when a stop comes and the disk is known to be silent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from supervisor.errors import DiskSilentError
from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.ipc.stopflag import StopFlag
from supervisor.rows.journal import JournalWriter
from workers import main
from workers.backend import Chunk
from workers.main import ChunkInHand, Station

ROWS = np.ones((2, 1))


class KeepsAtTheStop:
    """A backend that is told to stop, and then keeps what it has finished."""

    batch = 1

    def evaluate(self, chunk: Chunk) -> int:
        station_flag.set()
        chunk.keep(0, ("sharpe",), ROWS)
        return 2


station_flag: StopFlag


@pytest.mark.parametrize("silent", [False, True])
def test_it_does_not_begin_to_write(tmp_path: Path, silent: bool) -> None:
    global station_flag  # noqa: PLW0603 - the backend's, as in a worker
    station_flag = StopFlag()
    ours, theirs = messages.pair()
    table = ProgressTable.create(1)
    path = tmp_path / "worker-0000.bin"
    station = Station(0, 0, os.getpid(), theirs, station_flag, table, "run", tmp_path)
    station_flag.note_disk(silent=silent)
    messages.send(ours, messages.Compute(0, 2))
    with JournalWriter(path, "run", 0) as journal:
        size = path.stat().st_size
        main._work(station, KeepsAtTheStop(), journal)  # type: ignore[arg-type]
        assert (path.stat().st_size > size) is not silent
        chunk = ChunkInHand(station, journal, 0, 2)
        if silent:
            with pytest.raises(DiskSilentError):
                chunk.keep_failed(0, "why")
    ours.setblocking(False)
    if silent:
        with pytest.raises(BlockingIOError):
            messages.receive(ours)  # its rows are not finished for anybody
    else:
        message, _ = messages.receive(ours)
        assert message == messages.Computed(0, 2)
    ours.close()
    theirs.close()
    table.close()


def test_a_disk_is_silent_for_one_generation_of_the_flag_only() -> None:
    flag = StopFlag()
    assert not flag.disk_silent
    flag.note_disk(silent=True)
    assert flag.disk_silent
    assert not flag.is_set()
    flag.clear()
    assert not flag.disk_silent
