from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.rows.grid import Grid
from supervisor.rows.space import Space

numbers = st.one_of(st.integers(-9, 9), st.sampled_from([-0.5, 0.25, 3.5]))
axis = st.lists(numbers, min_size=1, max_size=6, unique=True)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Two to four axes, of which any two are ordered, whichever comes first."""
    names = draw(st.permutations(["low", "high", "x", "y"]))[: draw(st.integers(2, 4))]
    names += [name for name in ("low", "high") if name not in names]
    lengths = {"x": st.integers(1, 3).map(range), "y": st.integers(1, 3).map(range)}
    return Space(Grid.of({n: draw(lengths.get(n, axis)) for n in names}), ("low", "high"))


@settings(max_examples=200, deadline=None)
@given(spaces(), st.data())
def test_accepted_are_those_in_order_and_counted_without_a_look(
    space: Space, data: st.DataObject
) -> None:
    size = space.grid.size
    params = [space.grid.params(i) for i in range(size)]
    accepted = [i for i in range(size) if params[i]["low"] < params[i]["high"]]
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    expected = [i for i in accepted if start <= i < stop]
    assert space.accepted(start, stop).tolist() == expected
    assert space.count(start, stop) == len(expected)
    assert space.total == len(accepted)
    assert space.count_all([(0, start), (start, stop)]) == space.count(0, stop)


def test_all_are_accepted_without_a_constraint() -> None:
    space = Space(Grid.of({"a": range(3), "b": ["x", "y"]}))
    assert space.accepted(1, 4).tolist() == [1, 2, 3]
    assert (space.count(1, 4), space.total) == (3, 6)


@pytest.mark.parametrize("ordered", [None, ("low", "high")])
def test_an_empty_or_reversed_range_has_none(ordered: tuple[str, str] | None) -> None:
    space = Space(Grid.of({"low": range(5), "high": range(5)}), ordered)
    assert space.count(3, 3) == space.count(20, 3) == 0
    assert space.accepted(3, 3).tolist() == []


def test_a_huge_grid_is_counted_at_once() -> None:
    n = 10_000
    grid = Grid(("low", "x", "high"), (np.arange(n), np.arange(n), np.arange(n)))  # 10¹² points
    space = Space(grid, ("low", "high"))
    began = time.process_time()
    assert space.total == n * n * (n - 1) // 2
    edges = range(0, grid.size + 1, grid.size // 100)
    assert space.count_all(itertools.pairwise(edges)) == space.total
    assert time.process_time() - began < 1.0
