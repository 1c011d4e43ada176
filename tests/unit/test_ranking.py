from __future__ import annotations

import numpy as np
import pytest

from supervisor.errors import ConfigError
from supervisor.lifecycle.prepare import Changes, check_ranking
from supervisor.records.plan import Source
from supervisor.rows.compaction import compact
from supervisor.rows.grid import Grid
from supervisor.rows.journal import JournalWriter
from supervisor.rows.ranking import Places, Ranking
from supervisor.rows.results import best
from supervisor.rows.space import Space

VALUES = np.array([2.0, np.nan, np.inf, -np.inf, 5.0, -1.0])
TRADES = np.array([9.0, 9.0, 9.0, 9.0, 1.0, np.nan])


@pytest.mark.parametrize(
    ("ranking", "order"),
    [
        (Ranking(), [4, 0, 5]),
        (Ranking(ascending=True), [5, 0, 4]),
        (Ranking(min_trades=1), [4, 0]),
        (Ranking(min_trades=2), [0]),
        (Ranking(min_trades=10), []),
    ],
)
def test_what_is_not_finite_or_hardly_trades_is_never_the_best(
    ranking: Ranking, order: list[int]
) -> None:
    scores = ranking.scores(VALUES, TRADES)
    ranked = [at for at in np.argsort(-scores, kind="stable").tolist() if scores[at] > -np.inf]
    assert ranked == order
    assert [scores[at] * ranking.sign for at in order] == [VALUES[at] for at in order]


def test_without_trades_nothing_has_enough_of_them() -> None:
    assert (Ranking(min_trades=1).scores(VALUES, None) == -np.inf).all()


@pytest.mark.parametrize(
    ("ranking", "metrics", "places"),
    [
        (Ranking(), ["a", "sharpe"], Places(1, None)),
        (Ranking(), ["x", "y"], Places(0, None)),
        (Ranking(), [], None),
        (Ranking("y"), ["x", "y"], Places(1, None)),
        (Ranking("z"), ["x", "y"], None),
        (Ranking("result_a"), ["x", "a"], Places(1, None)),
        (Ranking("a"), ["x", "a"], None),
        (Ranking(min_trades=3), ["x", "trades"], Places(0, 1)),
        (Ranking(min_trades=3), ["x"], None),
    ],
)
def test_columns_are_found_by_their_names_in_results(
    ranking: Ranking, metrics: list[str], places: Places | None
) -> None:
    assert ranking.places(metrics, ("a", "b")) == places


def test_the_best_rows_of_a_file(tmp_path) -> None:
    space = Space(Grid.of({"a": range(6)}))
    with JournalWriter(tmp_path / "worker-0000.bin", "run", 0) as journal:
        journal.append(0, ("x", "trades"), np.stack([VALUES, TRADES], axis=1))
    compact(tmp_path, tmp_path / "r.parquet", space)
    for ranking, order in ((Ranking(), [4, 0, 5]), (Ranking("x", True, 2), [0])):
        rows = best(tmp_path / "r.parquet", "x", 10, ranking)
        assert [row["a"] for row in rows] == order


def test_a_resumed_run_ranks_as_before_unless_it_is_told() -> None:
    before = Ranking("x", True, 3)
    assert Changes().ranking(before) == before
    assert Changes(sort="y").ranking(before) == Ranking("y", False, 3)
    assert Changes(sort="y", ascending=True, min_trades=0).ranking(before) == Ranking("y", True, 0)


def test_a_builtin_s_metrics_are_known_before_it_runs() -> None:
    check_ranking(Ranking("exposure"), Source.BUILT_IN)
    check_ranking(Ranking("anything"), Source.CALLABLE)
    with pytest.raises(ConfigError, match="no metric 'profit'; its metrics: total_return, sharpe"):
        check_ranking(Ranking("profit"), Source.BUILT_IN)
