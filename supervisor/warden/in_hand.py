"""The chunks that workers have in hand, and how much of each is in a journal."""

from __future__ import annotations

import time

from supervisor.ipc.progress_table import ProgressTable
from supervisor.warden.dispatch import Dispatcher


class InHand:
    """What workers that end have done of their chunks.

    Parameters
    ----------
    dispatcher : Dispatcher
        Which chunk each slot's worker has.
    table : ProgressTable
        What each has kept of it.
    """

    def __init__(self, dispatcher: Dispatcher, table: ProgressTable) -> None:
        self._dispatcher = dispatcher
        self._table = table

    def kept_until(self, slot: int) -> int:
        """First index of a worker's chunk that is not in its journal."""
        chunk = self._dispatcher.in_hand(slot)
        if chunk is None:
            return 0
        if not self.begun(slot):
            return chunk.start
        return int(min(max(self._table.rows[slot]["kept_until"], chunk.start), chunk.stop))

    def begun(self, slot: int) -> bool:
        """Whether a worker has begun the chunk that it was given."""
        chunk, row = self._dispatcher.in_hand(slot), self._table.rows[slot]
        return chunk is not None and chunk[:2] == (row["chunk_start"], row["chunk_stop"])

    def advanced(self, slot: int) -> bool:
        """Whether a worker has kept anything of its chunk."""
        chunk = self._dispatcher.in_hand(slot)
        return chunk is not None and self.kept_until(slot) > chunk.start

    def take_back(self, slot: int) -> None:
        """Take back what a worker has not kept, the chunk it was given ahead included."""
        while self._dispatcher.in_hand(slot) is not None:
            self._dispatcher.returned(slot, self.kept_until(slot), time.monotonic())
