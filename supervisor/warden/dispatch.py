"""Dispatch of chunks to workers: ranges of combinations, handed out, returned, retried.

Pure bookkeeping, with the time as a parameter. The work left is a short list of
ranges, whatever the grid's size: nothing here grows with it.

A chunk whose worker dies is retried once as it is (the death may have been an
accident: an OOM kill, a stray signal). If its worker dies again it is halved, and
its halves in turn, until a single combination is left that crashes every worker;
that one is given up as failed, and the sweep continues.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

CHUNK_TARGET_S = 0.5
"""Target computing time per chunk: long compared with the 1 ms it takes to write its last
rows and to hand out the next one, short for a user who waits for a drain."""

_GROWTH = 16  # per chunk, while the rate is still being learnt …
_KNOWN_GROWTH = 2  # … and once it is known: a clock may have been looked at too late
_TAIL_SHARE = 2  # the last chunks shrink so that all workers end together …
_TAIL_FLOOR = 12  # … but not below this fraction of a full one
_AHEAD_LEFT = 4  # full chunks left for each worker, below which none is handed out ahead


class Chunk(NamedTuple):
    """Combinations ``start`` to ``stop`` (exclusive).

    ``crashes`` counts the workers that died while computing exactly this range or one
    that contained it, ``spared`` those whose death had another cause.
    """

    start: int
    stop: int
    crashes: int = 0
    spared: int = 0

    @property
    def size(self) -> int:
        """Number of combinations."""
        return self.stop - self.start


class Verdict(NamedTuple):
    """What follows from a worker's death.

    Attributes
    ----------
    failed : int or None
        The combination that is given up, if the search has ended there.
    hopeless : bool
        So many workers died in a row with nothing finished in between that
        the fault is not in a combination; the run should be failed.
    """

    failed: int | None = None
    hopeless: bool = False


BARREN_CRASHES = 40
"""Deaths in a row, with nothing finished in between, after which probes decide."""

PROBES = 5
"""Single combinations tried elsewhere: if every one of them crashes its worker too, the
fault is not in a combination, and the run fails."""

MAX_BARREN_CRASHES = 1_000
"""Deaths in a row after which a run fails in any case: a search must end."""

SPARED = 4
"""Deaths during a chunk that had another cause and are not counted as its crashes. Beyond
that they are counted: a function may well SIGKILL its own process."""

_SEARCH_DEPTH = 34  # halving the largest chunk, 2³² combinations, down to one; per worker
_PROBE_AFTER = BARREN_CRASHES // 2


class Dispatcher:
    """Hands out chunks of the ranges that are still to be computed.

    Parameters
    ----------
    todo : list of (int, int)
        Disjoint ranges [start, stop) to compute, in order.
    n_workers : int
        How many workers will ask.
    first_chunk : int
        Size of the first chunk, before any rate is known.
    even : bool
        Whether one combination takes about as long as another, so that a chunk can be handed
        out ahead. Otherwise it could be held up behind a combination that takes minutes.
    batch : int
        How many are computed at once: longer chunks are made of whole batches.
    count : callable, optional
        Counts the combinations of a range that are to be computed; all of them if left out.
        Ranges are of the whole grid, of which a strategy may accept a part.
    """

    def __init__(
        self,
        todo: list[tuple[int, int]],
        n_workers: int,
        first_chunk: int = 1,
        *,
        even: bool = False,
        batch: int = 1,
        count: Callable[[int, int], int] = lambda start, stop: stop - start,
    ) -> None:
        self._todo = [Chunk(start, stop) for start, stop in todo if stop > start]
        heapq.heapify(self._todo)
        self._in_hand: dict[int, list[Chunk]] = {}
        """Per worker what it computes, then what it was given ahead."""
        self._since: dict[int, float] = {}
        self._even = even
        self._batch = batch
        self._count = count
        self._rate_known = False
        self._n_workers = n_workers
        self._size = max(1, first_chunk)
        self._left = sum(chunk.size for chunk in self._todo)
        self._barren_crashes = 0
        self._empty_handed = 0
        self._failed_probes = 0
        self._probes: set[int] = set()
        self.finished = 0
        """Combinations finished or given up so far."""

    def take(self, worker: int, now: float) -> Chunk | None:
        """Give ``worker`` a chunk, or None when there is none left to hand out."""
        if not self._todo:
            return None
        piece = self._probe() or heapq.heappop(self._todo)
        if piece.crashes == 0:
            size = min(piece.size, self._size, self._fair_share())
            if size < piece.size:
                heapq.heappush(self._todo, piece._replace(start=piece.start + size))
                piece = piece._replace(stop=piece.start + size)
        self._left -= piece.size
        self._in_hand.setdefault(worker, []).append(piece)
        self._since.setdefault(worker, now)
        return piece

    def take_ahead(self, worker: int, now: float) -> Chunk | None:
        """Give ``worker`` the chunk after the one it computes, so that it need not wait for it.

        None where that could keep another worker waiting, and where a chunk is suspect.
        """
        hand = self._in_hand.get(worker, ())
        if len(hand) != 1 or self._barren_crashes or not (self._even and self._rate_known):
            return None
        if not self._todo or self._todo[0].crashes:
            return None
        if self._n_workers > 1 and self._left < _AHEAD_LEFT * self._n_workers * self._size:
            return None
        return self.take(worker, now)

    def returned(self, worker: int, until: int, now: float) -> None:
        """Take back a chunk computed up to ``until`` (all of it, unless a stop came)."""
        if worker not in self._in_hand:
            return  # a forked child of the worker that returned has reported it before
        chunk, since = self._lay_down(worker), self._since.pop(worker)
        if worker in self._in_hand:
            self._since[worker] = now  # it has begun the chunk it was given ahead
        self.finished += self._count(chunk.start, until)
        if until > chunk.start:
            self._not_barren()
        if until < chunk.stop:
            self._put_back(chunk._replace(start=until))
        elif chunk.crashes == 0:
            self._learn(chunk.size, now - since)

    def crashed(self, worker: int, kept_until: int, *, blamed: bool = True) -> Verdict:
        """Take back the chunk of a worker that died having kept all below ``kept_until``.

        Parameters
        ----------
        worker : int
            The worker that died.
        kept_until : int
            First combination of its chunk that is not in its journal.
        blamed : bool
            Whether the computation may have caused the death.
        """
        if worker not in self._in_hand:
            self._empty_handed += 1  # it had no chunk: no combination caused it
            return Verdict(hopeless=self._hopeless)
        chunk = self._lay_down(worker)
        for ahead in self._in_hand.pop(worker, []):
            self._put_back(ahead)  # it was not begun
        del self._since[worker]
        done = max(0, min(kept_until, chunk.stop) - chunk.start)
        self.finished += self._count(chunk.start, chunk.start + done)
        if done:
            self._not_barren()
        else:
            self._barren_crashes += 1
            self._failed_probes += chunk.start in self._probes
        if self._hopeless:
            self._put_back(chunk._replace(start=chunk.start + done))
            return Verdict(hopeless=True)
        if not blamed and chunk.spared < SPARED:
            left = chunk._replace(start=chunk.start + done, spared=chunk.spared + 1)
        else:
            left = chunk._replace(start=chunk.start + done, crashes=chunk.crashes + 1)
        if self._count(left.start, left.stop) == 0:
            return Verdict()  # nothing is left to compute, so nothing can fail
        if left.crashes == chunk.crashes or left.crashes == 1:
            self._put_back(left)
        elif left.size > 1:
            middle = left.start + left.size // 2
            self._put_back(left._replace(stop=middle))
            self._put_back(left._replace(start=middle))
        else:
            self.finished += 1
            return Verdict(failed=left.start)
        return Verdict()

    def learn_anew(self, n_workers: int, batch: int) -> None:
        """Go on with other workers, whose rate is not known yet; none has a chunk in hand."""
        self._n_workers, self._batch = n_workers, batch
        self._size, self._rate_known = 1, False

    def in_hand(self, worker: int) -> Chunk | None:
        """Return the chunk ``worker`` is computing, or None."""
        hand = self._in_hand.get(worker)
        return hand[0] if hand else None

    @property
    def idle(self) -> bool:
        """Whether no worker has a chunk."""
        return not self._in_hand

    @property
    def exhausted(self) -> bool:
        """Whether everything was finished or given up."""
        return not self._todo and not self._in_hand

    def _lay_down(self, worker: int) -> Chunk:
        hand = self._in_hand[worker]
        chunk = hand.pop(0)
        if not hand:
            del self._in_hand[worker]
        return chunk

    def _fair_share(self) -> int:
        """How much of the rest one worker may take without keeping the others waiting."""
        if self._n_workers == 1:
            return self._left
        return max(self._left // (_TAIL_SHARE * self._n_workers), self._size // _TAIL_FLOOR, 1)

    def _not_barren(self) -> None:
        self._barren_crashes = self._failed_probes = self._empty_handed = 0
        self._probes.clear()

    def _probe(self) -> Chunk | None:
        """After many deaths in a row, try a single combination far from there."""
        if self._barren_crashes < _PROBE_AFTER or len(self._probes) >= PROBES:
            return None
        fresh = [chunk for chunk in self._todo if chunk.crashes == 0]
        if not fresh:
            return None
        piece = max(fresh)
        self._todo.remove(piece)
        heapq.heapify(self._todo)
        if piece.size > 1:
            heapq.heappush(self._todo, piece._replace(stop=piece.stop - 1))
        self._probes.add(piece.stop - 1)
        return piece._replace(start=piece.stop - 1)

    @property
    def _hopeless(self) -> bool:
        if self._empty_handed >= BARREN_CRASHES:
            return True
        if self._failed_probes >= PROBES:
            return self._barren_crashes >= BARREN_CRASHES
        return self._barren_crashes >= MAX_BARREN_CRASHES + _SEARCH_DEPTH * self._n_workers

    def _put_back(self, chunk: Chunk) -> None:
        heapq.heappush(self._todo, chunk)
        self._left += chunk.size

    def _learn(self, size: int, took_s: float) -> None:
        target = size * CHUNK_TARGET_S / max(took_s, 1e-6)
        most = self._size * (_KNOWN_GROWTH if self._rate_known else _GROWTH)
        self._rate_known = self._rate_known or target < most
        size = int(max(1, min(target, most)))
        self._size = size if size < self._batch else round(size / self._batch) * self._batch
