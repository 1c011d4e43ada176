from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, brief
from supervisor.lifecycle import options
from supervisor.lifecycle.options import OPTIONS
from supervisor.lifecycle.spec import KEYS, read_spec
from supervisor.rows.grid import Grid

WHOLE = """
strategy = "sma_cross"
data = "bars.csv"
columns = "close=Settle"
symbol = "ESH4"
bars_per_year = 98280
year_days = 252
workers = 4
fee = 0.001
seed = 11
sort = "max_drawdown"
ascending = true
min_trades = 5
device = "cuda:0,1"
vram_limit = "8G"
run_dir = "out"
containment = "subreaper"

[grid]
fast = "5:50:5"
slow = [60, 90, 120]
flag = true

[stop]
grace = 0.5
terminate = 1.5
verify = 3

[slurm]
cluster = "ssh:login"
python = "venv/bin/python"
tasks = 50
lease = 0
job = { cpus = 8, setup = ["module load gcc"] }
"""

LEAST = 'strategy = "m:f"\ngrid.a = [1, 2]\n'


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
    given = read_spec(spec(tmp_path, WHOLE))
    assert given["strategy"] == "sma_cross"
    assert given["data"] == tmp_path / "bars.csv"
    assert given["run_dir"] == tmp_path / "out"
    assert (given["workers"], given["fee"], given["device"]) == (4, 0.001, "cuda:0,1")
    assert given["seed"] == 11
    assert given["vram_limit"] == 8 << 30
    assert (given["sort"], given["ascending"], given["min_trades"]) == ("max_drawdown", True, 5)
    assert (given["columns"], given["symbol"]) == ("close=Settle", "ESH4")
    assert (given["bars_per_year"], given["year_days"]) == (98_280, 252)
    assert given["containment"] == "subreaper"
    assert {name: list(values) for name, values in given["grid"].items()} == {
        "fast": list(range(5, 51, 5)), "slow": [60, 90, 120], "flag": [True],
    }  # fmt: skip
    assert options.timers(given) == {"grace_s": 0.5, "terminate_s": 1.5, "verify_s": 3.0}
    assert (given["slurm"], given["cluster"], given["tasks"]) == (True, "ssh:login", 50)
    assert (given["lease"], given["python"]) == (0, "venv/bin/python")
    assert given["job"] == {"cpus": 8, "setup": ["module load gcc"]}
    assert given.keys() == {"slurm", *(o.name for o in OPTIONS if o.section is not None)}, (
        "every key of the table is read here"
    )


def test_the_least_that_must_be_said(tmp_path: Path) -> None:
    given = read_spec(spec(tmp_path, LEAST))
    assert given == {"strategy": "m:f", "grid": {"a": [1, 2]}}
    assert read_spec(spec(tmp_path, LEAST + "[slurm]\n")) == given | {"slurm": True}
    assert read_spec(spec(tmp_path, LEAST + "[stop]\n")) == given


def test_a_strategy_file_lies_beside_the_spec(tmp_path: Path) -> None:
    given = read_spec(spec(tmp_path, 'strategy = "mine.py:f"\n[grid]\na = [1]\n'))
    assert given["strategy"] == f"{tmp_path / 'mine.py'}:f"
    given = read_spec(spec(tmp_path, 'strategy = "/abs/mine.py:f"\n[grid]\na = [1]\n'))
    assert given["strategy"] == "/abs/mine.py:f"


@pytest.mark.parametrize("section", list(KEYS))
def test_an_unknown_key_is_named_with_those_of_its_table(tmp_path: Path, section: str) -> None:
    wrong = "wrong = 3\n"
    text = f"{LEAST}[{section}]\n{wrong}" if section else wrong + LEAST
    error = refusal(tmp_path, text)
    assert error.key == f"{section}.wrong".lstrip(".")
    assert f"unknown key '{error.key}'" in str(error)
    listed = str(error).rpartition("are: ")[2].split(", ")
    assert listed == [*KEYS[section], *([] if section else ["stop", "slurm"])]
    if section:
        assert f"the keys of [{section}] are: " in str(error)


def test_an_unknown_job_option_is_named_with_the_known_ones(tmp_path: Path) -> None:
    error = refusal(tmp_path, LEAST + "[slurm.job]\ncpu = 3\n")
    assert error.key == "slurm.job"
    assert "key 'slurm.job': unknown job option cpu" in str(error)
    assert "cpus" in str(error)
    assert "command" not in str(error), "a sweep sets that itself"
    for key in ("command", "array", "hold"):
        error = refusal(tmp_path, f"{LEAST}[slurm.job]\n{key} = 1\n")
        assert f"job option {key} belongs to allstop" in str(error)


def test_a_key_in_the_wrong_table_is_told_its_own(tmp_path: Path) -> None:
    assert "'grace' belongs in the table [stop]" in str(refusal(tmp_path, "grace = 3\n" + LEAST))
    assert "'tasks' belongs in the table [slurm]" in str(refusal(tmp_path, "tasks = 3\n" + LEAST))


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
        ('strategy = "x"\n[grid]\na = [[1]]\n', "grid.a"),
        ('strategy = ""\n[grid]\na = [1]\n', "strategy"),
        ("data = 3\n" + LEAST, "data"),
        ('data = ""\n' + LEAST, "data"),
        ('data = "a\\u0000b"\n' + LEAST, "data"),
        ("run_dir = 3\n" + LEAST, "run_dir"),
        ('run_dir = "a\\u0000b"\n' + LEAST, "run_dir"),
        ('device = "tpu"\n' + LEAST, "device"),
        ("device = 1\n" + LEAST, "device"),
        ('device = "cuda:"\n' + LEAST, "device"),
        ("vram_limit = 8\n" + LEAST, "vram_limit"),
        ('vram_limit = "8 bananas"\n' + LEAST, "vram_limit"),
        ('containment = "bucket"\n' + LEAST, "containment"),
        ("containment = []\n" + LEAST, "containment"),
        ("fee = true\n" + LEAST, "fee"),
        ("fee = nan\n" + LEAST, "fee"),
        ("fee = -1e-9\n" + LEAST, "fee"),
        ("workers = 0\n" + LEAST, "workers"),
        ("workers = -9223372036854775809\n" + LEAST, "workers"),
        ("workers = []\n" + LEAST, "workers"),
        (LEAST + "[stop]\ngrace = inf\n", "stop.grace"),
        (LEAST + "[stop]\nterminate = -1\n", "stop.terminate"),
        (LEAST + "[stop]\nverify = " + "9" * 400 + "\n", "stop.verify"),
        (LEAST + "[stop]\nverify = {}\n", "stop.verify"),
        (LEAST + "[[stop]]\n", "stop"),
        ("slurm = true\n" + LEAST, "slurm"),
        (LEAST + "[slurm]\ntasks = 0\n", "slurm.tasks"),
        (LEAST + '[slurm]\ntasks = "4"\n', "slurm.tasks"),
        (LEAST + "[slurm]\nlease = -1\n", "slurm.lease"),
        (LEAST + "[slurm]\nlease = 1.5\n", "slurm.lease"),
        (LEAST + '[slurm]\ncluster = "carrier:pigeon"\n', "slurm.cluster"),
        (LEAST + "[slurm]\ncluster = 3\n", "slurm.cluster"),
        (LEAST + "[slurm]\npython = []\n", "slurm.python"),
        (LEAST + "[slurm]\njob = 3\n", "slurm.job"),
        (LEAST + '[slurm.job]\ncpus = "many"\n', "slurm.job"),
        (LEAST + '[slurm.job]\ntime_limit = "soon"\n', "slurm.job"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    error = refusal(tmp_path, text)
    assert key.rpartition(".")[2] in str(error)
    assert error.key is not None
    assert error.key.startswith(key)
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "strategy = ", "= 3", "\0", "[grid", "a = 1\na = 2\n", "a = " + 9999 * "[",
        "a = " + 9999 * "9",
    ],
    ids=brief,
)  # fmt: skip
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

    given = read_spec(spec(tmp_path, 'strategy = "x"\n[grid]\na = []\n'))
    with pytest.raises(ConfigError, match="'a' is empty"):
        Grid.of(given["grid"])


def test_dates_and_times_of_toml_are_values(tmp_path: Path) -> None:
    text = (
        'strategy = "x"\n[grid]\nday = [2024-01-02, 2024-01-03]\nat = 09:30:00\nname = ["00012"]\n'
    )
    grid = Grid.of(read_spec(spec(tmp_path, text))["grid"])
    assert grid.params(1) == {"day": dt.date(2024, 1, 3), "at": dt.time(9, 30), "name": "00012"}


@pytest.mark.parametrize(
    "points", ["[[grid]]\na = 1\n[[grid]]\na = 7\n", "grid = [{a = 1}, {a = 7}]\n"]
)
def test_points_are_tables(tmp_path: Path, points: str) -> None:
    grid = Grid.of(read_spec(spec(tmp_path, 'strategy = "x"\n' + points))["grid"])
    assert [grid.params(at) for at in range(grid.size)] == [{"a": 1}, {"a": 7}]


@pytest.mark.parametrize(
    ("points", "expected"),
    [("grid = [1, 2]\n", "point 0 must be a table"), ("[[grid]]\na = [1]\n", "'grid.a'")],
)
def test_what_is_no_point_is_refused(tmp_path: Path, points: str, expected: str) -> None:
    assert expected in str(refusal(tmp_path, 'strategy = "x"\n' + points))
