from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.lifecycle.spec import Spec, StopSection, read_spec

WHOLE = """
strategy = "sma_cross"
data = "bars.csv"
workers = 4
fee = 0.001
device = "cpu"
run_dir = "out"

[grid]
fast = "5:50:5"
slow = [60, 90, 120]
kind = "text"
flag = true

[stop]
grace = 0.5
verify = 3.0
"""


def spec(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> ConfigError:
    path = spec(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_spec(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    return caught.value


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    order, times = read_spec(spec(tmp_path, WHOLE.replace('kind = "text"\n', "")))
    assert order.strategy == "sma_cross"
    assert order.data == str(tmp_path / "bars.csv")
    assert order.run_dir == tmp_path / "out"
    assert (order.workers, order.fee, order.device) == (4, 0.001, "cpu")
    assert {name: list(values) for name, values in order.grid.items()} == {
        "fast": list(range(5, 51, 5)), "slow": [60, 90, 120], "flag": [True],
    }  # fmt: skip
    assert times == {"grace_s": 0.5, "verify_s": 3.0}


def test_the_least_that_must_be_said(tmp_path: Path) -> None:
    order, times = read_spec(spec(tmp_path, 'strategy = "m:f"\n[grid]\na = [1, 2]\n'))
    assert (order.strategy, order.grid, order.data, order.workers) == (
        "m:f",
        {"a": [1, 2]},
        None,
        None,
    )
    assert times == {}


def test_a_strategy_file_lies_beside_the_spec(tmp_path: Path) -> None:
    order, _ = read_spec(spec(tmp_path, 'strategy = "mine.py:f"\n[grid]\na = [1]\n'))
    assert order.strategy == f"{tmp_path / 'mine.py'}:f"
    order, _ = read_spec(spec(tmp_path, 'strategy = "/abs/mine.py:f"\n[grid]\na = [1]\n'))
    assert order.strategy == "/abs/mine.py:f"


def test_an_unknown_key_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'strategy = "x"\nworker = 2\n[grid]\na = [1]\n')
    assert "'worker'" in str(error)
    assert error.key == "worker"
    for key in Spec.model_fields:
        assert key in str(error)
    error = refusal(tmp_path, 'strategy = "x"\n[grid]\na = [1]\n[stop]\ngrave = 1.0\n')
    assert "'stop.grave'" in str(error)
    for key in StopSection.model_fields:
        assert key in str(error)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[grid]\na = [1]\n", "strategy"),
        ('strategy = "x"\n', "grid"),
        ('strategy = "x"\n[grid]\n', "grid"),
        ("strategy = 3\n[grid]\na = [1]\n", "strategy"),
        ('strategy = "x"\nworkers = "4"\n[grid]\na = [1]\n', "workers"),
        ('strategy = "x"\nworkers = 2.5\n[grid]\na = [1]\n', "workers"),
        ('strategy = "x"\nworkers = true\n[grid]\na = [1]\n', "workers"),
        ('strategy = "x"\nfee = "much"\n[grid]\na = [1]\n', "fee"),
        ('strategy = "x"\ngrid = 3\n', "grid"),
        ('strategy = "x"\nstop = 3\n[grid]\na = [1]\n', "stop"),
        ('strategy = "x"\n[grid]\na = [1]\n[stop]\ngrace = "2"\n', "stop.grace"),
        ('strategy = "x"\n[grid]\na = "5:1"\n', "grid.a"),
        ('strategy = "x"\n[grid]\na = "1:5:0"\n', "grid.a"),
        ('strategy = "x"\n[grid.a]\nb = 1\n', "grid"),
        ('strategy = "x"\n[grid]\na = [1979-05-27]\n', "grid"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    error = refusal(tmp_path, text)
    assert key.rpartition(".")[2] in str(error)
    assert error.key is not None
    assert error.key.startswith(key)


@pytest.mark.parametrize("text", ["strategy = ", "= 3", "\0", "[grid", "a = 1\na = 2\n"])
def test_what_is_not_toml_is_said_to_be_that(tmp_path: Path, text: str) -> None:
    assert "not TOML" in str(refusal(tmp_path, text))


def test_what_cannot_be_read_is_said_to_be_that(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match="spec"):
            read_spec(path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not TOML"):
        read_spec(binary)


def test_a_grid_without_values_is_refused_sooner_or_later(tmp_path: Path) -> None:
    from supervisor.rows.grid import Grid

    order, _ = read_spec(spec(tmp_path, 'strategy = "x"\n[grid]\na = []\n'))
    with pytest.raises(ConfigError, match="'a' is empty"):
        Grid.of(order.grid)
