from __future__ import annotations

import ast
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import bench
from bench.harness.command import MEASUREMENTS
from bench.harness.errors import NotMeasuredError
from bench.harness.interleave import interleave
from bench.harness.machine import available_bytes, describe_machine, peak_rss_bytes
from bench.harness.record import Comparison, Document, Measurement, Row, Spread, Target, compare
from bench.harness.report import table_of
from bench.harness.shape import Shape
from bench.peers import list_peers
from supervisor.errors import ConfigError


def test_spread_of_known_values():
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(5, 1.0, 2.0, 3.0, 4.0, 5.0)


def test_spread_of_one_value_is_that_value():
    assert Spread.of([7]) == Spread(1, 7.0, 7.0, 7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (Comparison.VALUE, 6.0),
        (Comparison.WHOLE, 6.0),
        (Comparison.DIFFERENCE, 2.0),
        (Comparison.RATIO, 1.5),
        (Comparison.OVERHEAD, 50.0),
        (Comparison.LOSS, -50.0),
    ],
)
def test_every_comparison(comparison, expected):
    assert comparison.of(6.0, 4.0) == pytest.approx(expected)


def test_headline_is_made_round_by_round():
    # both arms drift alike; the medians' difference would be right by luck only
    row = compare("x", "ms", [11, 102, 53], [1, 90, 50], comparison=Comparison.DIFFERENCE)
    assert row.headline == Spread.of([10, 12, 3])
    assert row.headline.median != row.ours.median - row.floor.median


def test_row_without_rounds_says_so():
    row = compare("x", "ms", [], [1.0], comparison=Comparison.RATIO, target=Target(3))
    assert row.not_measured
    assert row.met is None


def test_details_leave_out_what_was_not_seen():
    row = compare("x", "ms", [1], details={"seen_ms": [2, math.nan, 4], "unseen_ms": [math.nan]})
    assert row.details == {"seen_ms": Spread.of([2, 4])}


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target(50), 50.0, True),
        (Target(50), 50.1, False),
        (Target(50), math.nan, False),
        (Target(1000, at_most=False), 999.0, False),
        (Target(1000, at_most=False), 1000.0, True),
    ],
)
def test_targets(target, value, met):
    assert target.met(value) is met


def some_document() -> Document:
    full = compare(
        "a",
        "ms",
        [3, 4],
        [1, 1],
        comparison=Comparison.RATIO,
        floor_name="floor",
        target=Target(5),
        details={"other_ms": [1]},
    )
    missing = Row("b", "ms", target=Target(1, at_most=False), not_measured="not installed")
    return Document(
        "2026-01-01T00:00:00+00:00",
        describe_machine(),
        asdict(Shape.quick()),
        (Measurement("stop", "Stop", 1.5, (full, missing)),),
    )


def test_document_survives_json():
    document = some_document()
    assert Document.from_json(json.loads(json.dumps(document.to_json()))) == document


def test_json_spells_out_verdicts():
    full, missing = some_document().to_json()["measurements"][0]["rows"]
    assert (full["headline_unit"], full["met"]) == ("×", True)
    assert (missing["headline"], missing["met"]) == (None, None)


def test_document_of_another_format_is_refused():
    plain = some_document().to_json() | {"format": 99}
    with pytest.raises(ValueError, match="99"):
        Document.from_json(plain)


def test_table_shows_numbers_and_reasons():
    table = table_of(some_document().measurements[0])
    headlines = [str(cell) for cell in table.columns[1].cells]
    assert headlines[0].startswith("3.5 ×")
    assert headlines[1] == "not measured: not installed"


def test_arms_take_turns():
    order: list[str] = []
    arms = {name: lambda name=name: order.append(name) for name in "ab"}
    interleave(3, arms)
    assert "".join(order) == "ababab"


def test_warm_up_is_forgotten():
    numbers = iter(range(10))
    seen = interleave(2, {"a": lambda: next(numbers)}, warm_up=True)
    assert seen["a"].seen == [1, 2]


def test_arm_that_cannot_be_measured_does_not_stop_the_others():
    def broken() -> int:
        raise NotMeasuredError("no such thing here")

    seen = interleave(2, {"good": lambda: 1, "broken": broken})
    assert seen["good"].seen == [1, 1]
    assert seen["broken"].not_measured == "no such thing here"


def test_other_errors_are_not_swallowed():
    def wrong() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        interleave(1, {"wrong": wrong})


def test_shape_settings():
    shape = Shape.quick().with_rounds(7).with_settings(["hold_mb=50", "grace_s=0.5"])
    assert (shape.stop_rounds, shape.sweep_rounds) == (7, 7)
    assert (shape.hold_mb, shape.grace_s) == (50, 0.5)
    assert shape == replace(shape, hold_mb=50)


@pytest.mark.parametrize("setting", ["hold_mbs=1", "hold_mb=many", "hold_mb=0", "hold_mb"])
def test_wrong_settings_are_refused_with_what_there_is(setting):
    with pytest.raises(ConfigError, match="hold_mb"):
        Shape().with_settings([setting])


def test_machine_is_described():
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["versions"]["numba"]
    assert {"cpu", "kernel", "ram_bytes", "transparent_hugepage", "load_average"} <= set(machine)
    assert available_bytes() > 0


def test_peak_memory_of_a_process_that_is_gone():
    assert peak_rss_bytes(2**22 + 1) == 0


def test_every_peer_is_listed_without_importing_its_library():
    listed = list_peers()
    assert "vectorbt" in [entry.module for entry in listed]
    assert all(entry.missing in ("", "not installed") for entry in listed)


def test_missing_peer_is_listed_as_such(monkeypatch):
    (vectorbt,) = [entry for entry in list_peers() if entry.module == "vectorbt"]
    monkeypatch.setattr(vectorbt.peer, "package", "no_such_package_anywhere")
    (missing,) = [entry for entry in list_peers() if entry.module == "vectorbt"]
    assert missing.missing == "not installed"


def test_each_measurement_is_a_file_that_begins_with_what_help_says_of_it():
    files = list(Path(bench.__file__).parent.glob("[!_]*.py"))
    says = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
    assert {name: text.partition("\n")[0] for name, text in says.items()} == MEASUREMENTS
