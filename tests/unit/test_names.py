from __future__ import annotations

import itertools

import pytest

from supervisor.errors import ConfigError
from supervisor.rows.names import check_parameters, title_of


@pytest.mark.parametrize(
    ("metric", "parameters", "title"),
    [
        ("sharpe", ["a"], "sharpe"),
        ("a", ["a"], "result_a"),
        ("error", ["a"], "result_error"),
        ("result_a", ["a"], "result_result_a"),
        ("result_error", ["a"], "result_result_error"),
        ("result_b", ["a"], "result_b"),
        ("result_a", ["result_a"], "result_result_a"),
        ("index", ["a"], "index"),
    ],
)
def test_a_metric_is_never_called_like_a_parameter(
    metric: str, parameters: list[str], title: str
) -> None:
    assert title_of(metric, parameters) == title


def test_no_two_metrics_have_the_same_column() -> None:
    metrics = ["".join(["result_" * n, name]) for n in range(4) for name in ("a", "b", "error")]
    for parameters in (["a"], ["a", "b"], ["result_a"], ["c"]):
        titles = [title_of(metric, parameters) for metric in metrics]
        assert len(set(titles)) == len(titles)
        assert not set(titles) & {*parameters, "error"}


@pytest.mark.parametrize("names", [["error"], ["a", "result_a"], ["result_error"]])
def test_names_that_rows_need_are_refused(names: list[str]) -> None:
    for order in itertools.permutations(names):
        with pytest.raises(ConfigError, match="call the parameter something else"):
            check_parameters(order)
    check_parameters(["a", "result_b", "index", "trades"])
