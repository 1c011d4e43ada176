"""Random numbers depend on the run's seed and the combination, and on nothing else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supervisor.ipc.stopflag import StopFlag
from supervisor.lifecycle.prepare import Order, prepare
from supervisor.lifecycle.shards import lay_out
from supervisor.records.plan import Plan
from supervisor.rows.grid import Grid
from tests.support.chunks import FakeChunk
from workers import seeds, twisters
from workers.seeds import Seeds
from workers.user_function import UserFunction

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def generators_as_before() -> Iterator[None]:
    """Give the test session its own numbers back."""
    mine, numpys = random.getstate(), np.random.get_state()
    yield
    random.setstate(mine)
    np.random.set_state(numpys)


def draws() -> tuple[float, ...]:
    """A number of each way to draw one, those that keep a second one for later included."""
    return (
        random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal(),
        float(np.random.randint(1 << 30)), random.choice(range(10**9)),
    )  # fmt: skip


def run(
    function: Callable[..., Any], chunks: list[tuple[int, int]], seed: int = 5, size: int = 40
) -> dict[int, tuple[float, ...]]:
    """Rows of a function by combination, computed in these chunks by one worker."""
    grid = Grid.of({"a": range(size)})
    backend = UserFunction(lambda: function, None, grid, seed)  # type: ignore[arg-type]
    backend.start()
    found = {}
    for start, stop in chunks:
        chunk = FakeChunk(start, stop)
        chunk.stop_flag = StopFlag()  # type: ignore[attr-defined]
        backend.evaluate(chunk)
        for first, _, rows in chunk.kept:
            found |= {first + at: tuple(row) for at, row in enumerate(rows.tolist())}
    assert backend._seeds is not None
    backend._seeds.end()
    return found


def noisy(_bars: object, params: Any, stop: Any) -> dict[str, float]:
    values = draws()
    for _ in range(params["a"] % 5):
        draws()  # what one combination draws is no matter to the next
    if params["a"] % 3 == 0:
        np.random.standard_normal()  # leaves the second number of a pair
        random.gauss(0, 1)
    return {str(at): value for at, value in enumerate((*values, stop.rng.random()))}


def test_rows_depend_on_neither_order_nor_chunks() -> None:
    whole = run(noisy, [(0, 40)])
    assert len(set(whole.values())) == 40
    for column in range(7):
        assert len({row[column] for row in whole.values()}) == 40
    assert run(noisy, [(31, 40), (7, 8), (8, 31), (0, 7)]) == whole
    assert run(noisy, [(17, 18)])[17] == whole[17]


def test_another_seed_is_another_run_and_the_same_one_the_same() -> None:
    first = run(noisy, [(0, 3)], seed=1)
    assert first == run(noisy, [(0, 3)], seed=1)
    assert not set(first.values()) & set(run(noisy, [(0, 3)], seed=2).values())


def test_the_numbers_are_those_that_are_documented() -> None:
    """What a seed means is kept from version to version: these figures may not change."""
    one = Seeds(7)
    one.begin(3)
    found = [random.random(), float(np.random.rand())]
    one.end()
    assert found == pytest.approx(DOCUMENTED)
    rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(3,)))
    assert seeds.generator(7, 3).random() == rng.random()


DOCUMENTED = [0.4306143248972998, 0.05128013591991609]


def test_generators_of_the_same_kind_draw_different_numbers() -> None:
    one = Seeds(7)
    one.begin(0)
    mine = [random.random() for _ in range(2000)]
    numpys = np.random.rand(2000)
    one.end()
    assert abs(np.corrcoef(mine, numpys)[0, 1]) < 0.1
    firsts = []
    for index in range(2000):
        one.begin(index)
        firsts.append(np.random.rand(2))
    pairs = np.array(firsts)
    assert abs(pairs.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.1
    assert abs(np.corrcoef(pairs[1:, 0], pairs[:-1, 0])[0, 1]) < 0.1


def test_the_quick_way_to_seed_is_the_one_in_use_here() -> None:
    """On this interpreter none of the generators falls back to its own, slow function."""
    one = Seeds(7)
    one._take_numba()
    assert all(twister._words is not None for twister in one._twisters)  # type: ignore[attr-defined]
    one.end()


def test_where_the_state_lies_elsewhere_the_own_functions_serve() -> None:
    def slowed(_bars: object, params: Any, stop: Any) -> dict[str, float]:
        return noisy(_bars, params, stop)

    def rows() -> dict[int, tuple[float, ...]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(twisters.NumpyTwister, "_attach", slow)
            patch.setattr(twisters.PythonTwister, "__init__", lambda self: slow(self, None))
            return run(slowed, [(0, 10)])

    def slow(twister: Any, source: Any) -> None:
        twister._source, twister._words, twister._first = source, None, -1

    assert len(set(rows().values())) == 10
    assert rows() == rows()


def test_a_generator_that_the_user_has_put_in_numpys_place_is_seeded_too() -> None:
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(np.random.SFC64(1))  # type: ignore[attr-defined]
    try:
        first = run(noisy, [(0, 10)])
        assert run(noisy, [(5, 10), (0, 5)]) == first
        assert len({row[2] for row in first.values()}) == 10
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


def test_a_checkpoint_goes_on_with_the_next_numbers(tmp_path: Path) -> None:
    def half(_bars: object, params: Any, stop: Any) -> dict[str, float]:
        done, values = stop.load_checkpoint((0, []))
        while done < 6:
            values = [*values, *draws(), stop.rng.random()]
            done += 1
            if done == 3:
                stop.checkpoint((done, values))
                if interrupted:
                    raise KeyboardInterrupt
        return {str(at): value for at, value in enumerate(values)}

    def attempt() -> dict[int, tuple[float, ...]]:
        backend = UserFunction(lambda: half, None, Grid.of({"a": [0, 1]}), 5)  # type: ignore[arg-type]
        backend.start()
        chunk = FakeChunk(1, 2, checkpoints=tmp_path / "checkpoints")
        chunk.stop_flag = StopFlag()  # type: ignore[attr-defined]
        if interrupted:
            backend._call(1, flag_of(backend, chunk), chunk, -1)
            return {}
        backend.evaluate(chunk)
        return {1: tuple(chunk.rows[0])}

    def flag_of(backend: UserFunction, chunk: FakeChunk) -> Any:
        from workers.user_function import PolledFlag

        flag = PolledFlag.following(chunk)
        flag.begin(chunk.checkpoints, 1)
        flag.seeds = backend._seeds
        assert backend._seeds is not None
        backend._seeds.begin(1)
        return flag

    interrupted = False
    whole = attempt()
    interrupted = True
    with pytest.MonkeyPatch.context() as patch:
        import os

        patch.setattr(os, "getpid", lambda: -1)  # the worker that `_call` is told of
        attempt()
    random.seed(1)
    np.random.seed(1)
    interrupted = False
    assert attempt() == whole


def test_libraries_are_seeded_as_soon_as_a_call_imports_them() -> None:
    """Numba and PyTorch, imported inside the function: the first row is as any other's."""
    code = """
        import sys
        from workers.seeds import Seeds
        def one(index):
            import numba, torch
            @numba.njit
            def f():
                return np.random.rand() + random.random()
            return f(), f(), float(torch.rand(1))
        import numpy as np, random
        seeds = Seeds(5)
        rows = {}
        for index in map(int, sys.argv[1:]):
            seeds.begin(index)
            rows[index] = one(index)
        print([rows[index] for index in sorted(rows)])
    """
    pytest.importorskip("torch")

    def rows(*order: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *order],
            cwd=ROOT, text=True, capture_output=True, check=True,
        ).stdout  # fmt: skip

    found = rows("0", "1")
    assert found == rows("1", "0")
    values = eval(found)
    assert len({value for row in values for value in row}) == 6


def test_a_flag_without_a_worker_has_a_generator_too() -> None:
    assert 0 <= StopFlag().rng.random() < 1


def test_a_part_of_a_sweep_on_a_cluster_has_the_sweeps_seed(tmp_path: Path) -> None:
    """A shard is another process, maybe on another machine: its combinations keep their index."""
    order = Order.of({"strategy": "mine:f", "grid": {"a": range(40)}, "run_dir": tmp_path / "run"})
    prepared = prepare(order)
    try:
        folder = lay_out(prepared.run_dir, 1, (20, 40))
        part = Plan.from_json(json.loads((folder / "run.json").read_text()))
        assert prepared.plan.seed is not None
        assert (part.seed, part.span) == (prepared.plan.seed, range(20, 40))
    finally:
        prepared.claim.release()
    assert run(noisy, [(20, 40)]).items() <= run(noisy, [(0, 40)]).items()
