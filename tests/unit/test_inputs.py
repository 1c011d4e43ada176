from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.lifecycle import inputs
from supervisor.market.bars import load_bars
from supervisor.records import rundir
from supervisor.records.plan import Origin, Plan, Provenance, Source
from supervisor.rows.grid import Grid
from supervisor.system import sealed
from tests.support.data import CSV, write_csv


def plan_for(found: Provenance, source: Source = Source.BUILT_IN, n_bars: int = 4) -> Plan:
    return Plan(
        run_id="r", strategy="sma_cross", source=source, grid=Grid.of({"a": [1]}), combos_total=1,
        data="bars.csv", n_bars=n_bars, workers=1, provenance=found,
    )  # fmt: skip


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "bars.csv")


def found_for(data: object) -> Provenance:
    return inputs.provenance(data, "sma_cross", Source.BUILT_IN)


def test_a_relative_path_is_found_from_elsewhere(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(csv.parent)
    found = found_for("bars.csv")
    assert (found.origin, found.path) == (Origin.FILE, str(csv.resolve()))
    assert found.size == csv.stat().st_size
    monkeypatch.chdir("/")
    bars = inputs.bars_again(csv.parent, plan_for(found), lambda _note: None)
    assert bars.digest() == load_bars(csv).digest()


def test_a_plan_survives_its_json_with_where_it_came_from(csv: Path) -> None:
    plan = plan_for(found_for(csv))
    assert Plan.from_json(plan.to_json()).provenance == plan.provenance


def test_a_plan_of_an_older_version_knows_a_path_all_the_same(csv: Path) -> None:
    plain = plan_for(found_for(csv)).to_json()
    del plain["provenance"], plain["resumed"]
    found = Plan.from_json(plain | {"cwd": str(csv.parent)}).provenance
    assert (found.origin, found.path) == (Origin.FILE, str(csv))
    assert Plan.from_json(plain | {"data": "example"}).provenance.origin is Origin.EXAMPLE


def test_bars_from_memory_come_back_the_same(tmp_path: Path, csv: Path) -> None:
    bars = load_bars(csv)
    plan = plan_for(found_for(bars))
    with pytest.raises(ConfigError, match="came from memory"):
        inputs.bars_again(tmp_path, plan, lambda _note: None)
    inputs.keep(tmp_path, plan, bars, b"function")
    again = inputs.bars_again(tmp_path, plan, lambda _note: None)
    assert again.digest() == bars.digest()
    assert sealed.unpack((tmp_path / rundir.FUNCTION_FILE).read_bytes()) == b"function"
    written = (tmp_path / rundir.INPUTS_FILE).stat().st_mtime_ns
    inputs.keep(tmp_path, plan, bars, None)
    assert (tmp_path / rundir.INPUTS_FILE).stat().st_mtime_ns == written
    (tmp_path / rundir.BARS_FILE).write_bytes(b"fs-bars")
    with pytest.raises(ConfigError, match="start a new run"):
        inputs.bars_again(tmp_path, plan, lambda _note: None)


def test_changed_data_is_refused_unchanged_data_that_was_written_again_is_not(
    tmp_path: Path, csv: Path
) -> None:
    bars = load_bars(csv)
    plan = plan_for(found_for(csv))
    inputs.keep(tmp_path, plan, bars, None)
    os.utime(csv, ns=(0, 0))
    inputs.bars_again(tmp_path, plan, lambda _note: None)
    write_csv(csv, CSV.replace("1.15", "1.16", 1))
    with pytest.raises(ConfigError, match="has changed"):
        inputs.bars_again(tmp_path, plan, lambda _note: None)


@pytest.mark.parametrize("home", ["mine.py", "room.mine"])
def test_the_code_of_a_strategy_is_told_apart_without_importing_it(
    tmp_path: Path, home: str
) -> None:
    path = tmp_path / ("mine.py" if home == "mine.py" else "room/mine.py")
    path.parent.mkdir(exist_ok=True)
    spec = f"{home}:f"
    assert inputs.code_digest(spec, Source.IMPORT, str(tmp_path)) == ""
    path.write_text("raise SystemExit")
    one = inputs.code_digest(spec, Source.IMPORT, str(tmp_path))
    path.write_text("raise SystemExit()")
    assert one
    assert inputs.code_digest(spec, Source.IMPORT, str(tmp_path)) not in ("", one)
    assert inputs.code_digest(spec, Source.BUILT_IN, str(tmp_path)) == ""


@pytest.mark.parametrize("home", ["mine.py", "room.mine"])
def test_a_strategy_without_end_is_refused_where_an_import_would_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "here" / "room").mkdir(parents=True)
    (tmp_path / "there" / "room").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "there")
    place = tmp_path / ("here/mine.py" if home == "mine.py" else "there/room/mine.py")
    place.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"mine.py is a device"):
        inputs.check_code(home)


def test_a_module_without_a_file_of_its_own_is_left_to_the_import(tmp_path: Path) -> None:
    inputs.check_code("json.no_such")
    with pytest.raises(ConfigError, match="does not exist"):
        inputs.check_code(str(tmp_path / "none.py"))
