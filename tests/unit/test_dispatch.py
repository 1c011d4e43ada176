from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.warden.dispatch import (
    BARREN_CRASHES,
    CHUNK_TARGET_S,
    SPARED,
    Chunk,
    Dispatcher,
    Verdict,
)

COST_S = 0.001


class Simulation:
    """Workers that compute in simulated time, and die over guilty combinations.

    ``keeps`` is how much of a chunk a dying worker has kept: all that it
    computed (1), nothing (0), or something between. ``ahead``: chunks are given out
    ahead, and are so long that there are many.
    """

    def __init__(
        self,
        todo: list[tuple[int, int]],
        n_workers: int,
        guilty: frozenset[int] = frozenset(),
        accidents: float = 0.0,
        keeps: float = 1.0,
        seed: int = 0,
        *,
        ahead: bool = False,
    ) -> None:
        self.cost_s = CHUNK_TARGET_S / 5 if ahead else COST_S
        self.todo = {i for start, stop in todo for i in range(start, stop)}
        self.dispatcher = Dispatcher(todo, n_workers, even=ahead)
        self.n_workers = n_workers
        self.guilty = guilty
        self.accidents = accidents
        self.keeps = keeps
        self.random = random.Random(seed)
        self.rows: list[int] = []
        self.given_up: list[int] = []
        self.hopeless = False
        self.barren = 0
        self.now = 0.0
        self.steps = 0

    def run(self, max_steps: int = 200_000) -> Simulation:
        d = self.dispatcher
        while not d.exhausted and not self.hopeless:
            self.steps += 1
            assert self.steps < max_steps, "it does not come to an end"
            worker = self.random.randrange(self.n_workers)
            chunk = d.in_hand(worker)
            if chunk is None:
                taken = d.take(worker, self.now)
                assert taken is None or (taken.size > 0 and d.in_hand(worker) == taken)
                continue
            if self.random.random() < 0.5:
                d.take_ahead(worker, self.now)
                assert d.in_hand(worker) == chunk
            self.finish(worker, chunk.start, chunk.stop)
        return self

    def finish(self, worker: int, start: int, stop: int) -> None:
        self.now += (stop - start) * self.cost_s
        dies_at = next((i for i in range(start, stop) if i in self.guilty), None)
        if dies_at is None and self.random.random() < self.accidents:
            dies_at = self.random.randrange(start, stop)
        if dies_at is None:
            self.rows += range(start, stop)
            self.barren = 0
            self.dispatcher.returned(worker, stop, self.now)
            return
        kept_until = start + int((dies_at - start) * self.keeps)
        self.rows += range(start, kept_until)
        self.barren = 0 if kept_until > start else self.barren + 1
        verdict = self.dispatcher.crashed(worker, kept_until)
        if verdict.failed is not None:
            self.given_up.append(verdict.failed)
        self.hopeless = verdict.hopeless
        if self.hopeless:
            assert self.barren >= BARREN_CRASHES

    def check(self) -> None:
        done = self.rows + self.given_up
        assert len(done) == len(set(done)), "a combination was finished twice"
        assert self.dispatcher.finished == len(done)
        if not self.hopeless:
            assert set(done) == self.todo


ranges = st.lists(st.integers(1, 60), min_size=1, max_size=8).map(
    lambda sizes: [
        (sum(sizes[:at]) + 5 * at, sum(sizes[: at + 1]) + 5 * at) for at in range(len(sizes))
    ]
)


@given(ranges, st.integers(1, 8), st.integers(0, 2**32), st.booleans())
def test_everything_is_finished_once(todo: list, n_workers: int, seed: int, ahead: bool) -> None:
    simulation = Simulation(todo, n_workers, seed=seed, ahead=ahead).run()
    simulation.check()
    assert simulation.given_up == []


@given(ranges, st.integers(1, 8), st.data())
def test_exactly_the_guilty_are_given_up(todo: list, n_workers: int, data: st.DataObject) -> None:
    everything = sorted({i for start, stop in todo for i in range(start, stop)})
    guilty = frozenset(data.draw(st.lists(st.sampled_from(everything), max_size=6)))
    simulation = Simulation(
        todo, n_workers, guilty, keeps=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        seed=data.draw(st.integers(0, 2**32)), ahead=data.draw(st.booleans()),
    ).run()  # fmt: skip
    simulation.check()
    assert not simulation.hopeless
    assert set(simulation.given_up) == guilty


@given(
    ranges, st.integers(1, 8), st.floats(0, 0.5), st.floats(0, 1), st.integers(0, 2**32),
    st.booleans(),
)  # fmt: skip
def test_random_deaths_lose_and_double_nothing(
    todo: list, n_workers: int, accidents: float, keeps: float, seed: int, ahead: bool
) -> None:
    Simulation(
        todo, n_workers, accidents=accidents, keeps=keeps, seed=seed, ahead=ahead
    ).run().check()


@given(st.integers(1, 8), st.integers(0, 1000), st.integers(0, 2**32))
def test_where_everything_kills_it_ends_soon(n_workers: int, before: int, seed: int) -> None:
    guilty = frozenset(range(before, before + 5000))
    simulation = Simulation([(0, before + 5000)], n_workers, guilty, seed=seed).run()
    simulation.check()
    assert simulation.hopeless
    assert set(simulation.rows) == set(range(before))
    assert set(simulation.given_up) <= guilty


def test_two_deaths_convict_and_one_does_not() -> None:
    dispatcher = Dispatcher([(0, 1)], 1)
    dispatcher.take(0, 0.0)
    assert dispatcher.crashed(0, 0).failed is None
    assert not dispatcher.exhausted
    dispatcher.take(0, 0.0)
    assert dispatcher.crashed(0, 0).failed == 0
    assert dispatcher.exhausted
    assert dispatcher.finished == 1


def test_deaths_by_another_hand_are_not_held_against_it_for_a_while() -> None:
    dispatcher = Dispatcher([(0, 1)], 1)
    for _ in range(SPARED):
        dispatcher.take(0, 0.0)
        assert dispatcher.crashed(0, 0, blamed=False).failed is None
    dispatcher.take(0, 0.0)
    assert dispatcher.crashed(0, 0, blamed=False).failed is None
    dispatcher.take(0, 0.0)
    assert dispatcher.crashed(0, 0, blamed=False).failed == 0
    assert dispatcher.exhausted


def test_only_accepted_combinations_are_counted() -> None:
    def every_tenth(start: int, stop: int) -> int:
        return len(range(-(-start // 10), -(-stop // 10)))

    dispatcher = Dispatcher([(0, 100)], 1, first_chunk=100, count=every_tenth)
    dispatcher.take(0, 0.0)
    dispatcher.returned(0, 35, 1.0)
    assert dispatcher.finished == 4
    dispatcher.take(0, 1.0)
    dispatcher.crashed(0, 61)
    assert dispatcher.finished == 7
    while dispatcher.take(0, 2.0) is not None:
        dispatcher.returned(0, dispatcher.in_hand(0).stop, 3.0)
    assert dispatcher.finished == 10


def test_a_range_with_nothing_to_compute_is_never_given_up() -> None:
    dispatcher = Dispatcher([(0, 1), (5, 6)], 1, count=lambda start, stop: int(start <= 5 < stop))
    assert dispatcher.take(0, 0.0)[:2] == (0, 1)
    assert dispatcher.crashed(0, 0) == Verdict()
    assert dispatcher.take(0, 0.0)[:2] == (5, 6)
    dispatcher.crashed(0, 5)
    dispatcher.take(0, 0.0)
    assert dispatcher.crashed(0, 5) == Verdict(failed=5)
    assert dispatcher.exhausted
    assert dispatcher.finished == 1


def grown(n_workers: int, size: int) -> Dispatcher:
    """A dispatcher of equal chunks of ``size``, one in each worker's hand."""
    dispatcher = Dispatcher([(0, 100 * size * n_workers)], n_workers, first_chunk=size)
    for worker in range(n_workers):
        taken = dispatcher.take(worker, 0.0)
        assert taken is not None
        assert taken.size == size
    return dispatcher


@pytest.mark.parametrize("n_workers", [1, 2, 8, 32, 128])
def test_a_search_by_many_workers_at_once_is_not_taken_for_hopeless(n_workers: int) -> None:
    """Each chunk's first combination kills: every search is long, and none is barren for good."""
    size = 2**10
    dispatcher = grown(n_workers, size)
    guilty = {worker * size for worker in range(n_workers)}
    found = set()
    for _ in range(200_000):
        for worker in range(n_workers):
            chunk = dispatcher.in_hand(worker)
            if chunk is None:
                dispatcher.take(worker, 0.0)
                continue
            if guilty & set(range(chunk.start, min(chunk.stop, chunk.start + size))):
                verdict = dispatcher.crashed(worker, chunk.start)
                assert not verdict.hopeless, f"given up after finding {len(found)} of {n_workers}"
                if verdict.failed is not None:
                    found.add(verdict.failed)
            else:
                dispatcher.returned(worker, chunk.stop, 0.0)
        if found == guilty:
            return
    raise AssertionError("not found")


def test_many_guilty_ones_side_by_side_do_not_hide_the_innocent() -> None:
    """A sweep goes on past a block that kills, as long as something can be computed."""
    guilty = frozenset(range(10, 90))
    simulation = Simulation([(0, 400)], 2, guilty, keeps=1.0).run()
    simulation.check()
    assert set(simulation.rows) == set(range(400)) - guilty


def sizes_of_chunks(n: int, n_workers: int, batch: int = 1) -> list[int]:
    """Sizes of the chunks of a grid that one worker of several computes alone."""
    dispatcher = Dispatcher([(0, n)], n_workers, batch=batch)
    sizes = []
    now = 0.0
    while (chunk := dispatcher.take(0, now)) is not None:
        sizes.append(chunk.size)
        now += chunk.size * COST_S
        dispatcher.returned(0, chunk.stop, now)
    return sizes


def test_chunks_grow_to_what_takes_the_target_time_and_shrink_at_the_end() -> None:
    sizes = sizes_of_chunks(1_000_000, n_workers=2)
    full = round(CHUNK_TARGET_S / COST_S)
    assert sizes[0] == 1
    assert max(sizes) == pytest.approx(full, rel=0.01)
    assert sizes[len(sizes) // 2] == pytest.approx(full, rel=0.01)
    assert sizes[-1] < full / 4
    assert sum(sizes) == 1_000_000


def test_a_lone_worker_has_whole_chunks_to_the_end() -> None:
    sizes = sizes_of_chunks(100_000, n_workers=1)
    full = round(CHUNK_TARGET_S / COST_S)
    grown = sizes[sizes.index(max(sizes)) : -1]  # the very last one is what is left
    assert len(grown) > 100
    assert set(grown) <= {full - 1, full}  # a clock's rounding


@pytest.mark.parametrize("batch", [7, 30, 90])
def test_a_full_chunk_is_made_of_whole_batches(batch: int) -> None:
    """A batch that is not full costs more per combination."""
    full = round(CHUNK_TARGET_S / COST_S)
    assert full > 90, "a batch fits into a chunk"
    *sizes, _ = sizes_of_chunks(100_000, 1, batch)
    assert {size % batch for size in sizes if size > batch} == {0}
    assert max(sizes) == pytest.approx(full, abs=batch / 2 + 1)


def test_a_batch_longer_than_a_chunk_should_be_is_no_measure() -> None:
    assert max(sizes_of_chunks(100_000, 1, 5_000)) <= round(CHUNK_TARGET_S / COST_S)


def with_a_chunk_ahead(n: int, n_workers: int) -> tuple[Dispatcher, Chunk, Chunk, float]:
    """A worker 0 that knows what it will compute next; the rate is known."""
    dispatcher = Dispatcher([(0, n)], n_workers, even=True)
    now = 0.0
    while (chunk := dispatcher.take(0, now)) is not None:
        ahead = dispatcher.take_ahead(0, now)
        if ahead is not None:
            return dispatcher, chunk, ahead, now
        now += chunk.size * COST_S
        dispatcher.returned(0, chunk.stop, now)
    raise AssertionError("nothing is given ahead")


@pytest.mark.parametrize("n_workers", [1, 2])
def test_one_chunk_is_given_ahead_once_the_rate_is_known(n_workers: int) -> None:
    dispatcher, chunk, ahead, now = with_a_chunk_ahead(1_000_000, n_workers)
    assert chunk.size == ahead.size == pytest.approx(CHUNK_TARGET_S / COST_S, rel=0.01)
    assert dispatcher.in_hand(0) == chunk
    assert dispatcher.take_ahead(0, now) is None, "one is enough"
    for _ in range(5):  # how long it lay there does not count as its computing
        now += chunk.size * COST_S
        dispatcher.returned(0, chunk.stop, now)
        assert dispatcher.in_hand(0) == ahead
        chunk, ahead = ahead, dispatcher.take_ahead(0, now)
        assert ahead is not None
        assert ahead.size == pytest.approx(CHUNK_TARGET_S / COST_S, rel=0.01)


def test_a_clock_that_was_read_too_late_does_not_make_one_huge_chunk() -> None:
    """The warden was held up: it seems that what was given ahead took no time."""
    dispatcher, chunk, ahead, now = with_a_chunk_ahead(1_000_000, 2)
    now += 2 * chunk.size * COST_S
    dispatcher.returned(0, chunk.stop, now)
    dispatcher.returned(0, ahead.stop, now + 1e-3)
    assert dispatcher.take(0, now).size <= 2 * chunk.size


def test_nothing_is_given_ahead_where_one_may_take_longer_than_another() -> None:
    dispatcher = Dispatcher([(0, 1_000_000)], 2)
    for now in range(20):
        chunk = dispatcher.take(0, now)
        assert dispatcher.take_ahead(0, now) is None
        dispatcher.returned(0, chunk.stop, now + CHUNK_TARGET_S)


def test_nothing_is_given_ahead_near_the_end() -> None:
    dispatcher, chunk, ahead, now = with_a_chunk_ahead(20_000, 2)
    full, given = chunk.size, [ahead.start]
    while (chunk := dispatcher.in_hand(0) or dispatcher.take(0, now)) is not None:
        if (ahead := dispatcher.take_ahead(0, now)) is not None:
            given.append(ahead.start)
        now += chunk.size * COST_S
        dispatcher.returned(0, chunk.stop, now)
    assert len(given) > 20
    assert max(given) <= 20_000 - 3 * 2 * full, "three for each worker are left"


def test_what_was_given_ahead_is_not_blamed_for_a_death() -> None:
    dispatcher, chunk, ahead, now = with_a_chunk_ahead(1_000_000, 2)
    dispatcher.crashed(0, chunk.start)
    assert dispatcher.in_hand(0) is None
    again = dispatcher.take(0, now)
    assert again == chunk._replace(crashes=1)
    assert dispatcher.take_ahead(0, now) is None, "one at a time during the search"
    dispatcher.returned(0, again.stop, now)
    assert dispatcher.take(0, now) == ahead


def test_what_a_stop_left_over_stays_to_be_done() -> None:
    dispatcher = Dispatcher([(0, 10)], 1, first_chunk=8)
    chunk = dispatcher.take(0, 0.0)
    dispatcher.returned(0, 3, 1.0)
    assert dispatcher.finished == 3
    assert dispatcher.idle
    assert not dispatcher.exhausted
    rest = []
    while (chunk := dispatcher.take(0, 1.0)) is not None:
        rest += range(chunk.start, chunk.stop)
        dispatcher.returned(0, chunk.stop, 1.0)
    assert rest == list(range(3, 10))


def test_nothing_to_do_is_done() -> None:
    dispatcher = Dispatcher([(5, 5)], 3)
    assert dispatcher.exhausted
    assert dispatcher.idle
    assert dispatcher.take(0, 0.0) is None


def test_workers_that_die_empty_handed_are_hopeless_in_the_end() -> None:
    dispatcher = Dispatcher([(0, 10)], 2)
    deaths = 0
    while not dispatcher.crashed(deaths % 2, 0).hopeless:
        deaths += 1
        assert deaths < 2000
    assert deaths + 1 >= BARREN_CRASHES


def test_a_huge_grid_costs_no_more_than_a_small_one() -> None:
    dispatcher = Dispatcher([(0, 2**32)], 4)
    for at in range(1000):
        assert dispatcher.take(at % 4, 0.0) is not None
        dispatcher.returned(at % 4, dispatcher.in_hand(at % 4).stop, CHUNK_TARGET_S)
    assert len(dispatcher._todo) == 1


def test_a_message_of_an_unknown_worker_is_ignored() -> None:
    """A worker whose forked child returned sends its messages twice."""
    dispatcher = Dispatcher([(0, 10)], 1, first_chunk=4)
    chunk = dispatcher.take(0, 0.0)
    dispatcher.returned(0, chunk.stop, 1.0)
    dispatcher.returned(0, chunk.stop, 1.0)
    assert dispatcher.finished == chunk.stop


def test_other_workers_begin_with_small_chunks_again() -> None:
    """A GPU's chunk is half a second's work for it, and minutes' for a core."""
    dispatcher = Dispatcher([(0, 10**8)], 1, batch=64)
    for now in range(30):
        chunk = dispatcher.take(0, now)
        assert chunk is not None
        dispatcher.returned(0, chunk.stop, now + 1e-6 * chunk.size)
    grown = dispatcher.take(0, 31)
    assert grown is not None
    assert grown.size > 100_000
    dispatcher.returned(0, grown.start, 32)
    dispatcher.learn_anew(4, 1)
    sizes = []
    for worker in range(4):
        chunk = dispatcher.take(worker, 33)
        assert chunk is not None
        sizes.append(chunk.size)
    assert sizes == [1, 1, 1, 1]
