"""A chunk without supervision, for backends that are measured alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supervisor.ipc.stopflag import StopFlag


class BareChunk:
    """A chunk without supervision: its rows go nowhere (see :class:`workers.backend.Chunk`)."""

    def __init__(
        self,
        start: int,
        stop: int,
        flag: StopFlag | None = None,
        progress: NDArray[np.int64] | None = None,
    ) -> None:
        self.start = start
        self.stop = stop
        self.stop_flag = flag or StopFlag()
        self.flag: NDArray[np.int64] = self.stop_flag.array
        self.progress = np.zeros(1, np.int64) if progress is None else progress
        self.rows: list[NDArray[np.float64]] = []
        self.checkpoints = Path("/nonexistent")

    def stop_requested(self) -> bool:
        """Whether a stop was requested."""
        return self.stop_flag.is_set()

    def keep(
        self,
        start: int,
        columns: tuple[str, ...],
        rows: NDArray[np.float64],
        *,
        stop: int | None = None,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        """Keep the rows in memory."""
        self.rows.append(rows)

    def keep_failed(self, index: int, error: str) -> None:
        """Raise: nothing may fail here."""
        raise ValueError(f"combination {index}: {error}")

    def keep_value(self, metric: str, kind: str, value: str | int) -> float:
        """Raise: every metric is a number here."""
        raise ValueError(f"metric {metric}: {kind} {value}")

    def remark(self, text: str) -> None:
        """Raise: there is no report."""
        raise ValueError(text)
