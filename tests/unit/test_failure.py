"""Whatever a function raises, or returns, is one failed combination, or a row."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import fractions
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supervisor.errors import RunFailedError
from supervisor.ipc.stopflag import StopFlag
from supervisor.rows.cells import NULL, special
from supervisor.rows.grid import Grid
from tests.support.chunks import FakeChunk
from workers.failure import describe
from workers.user_function import UserFunction


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


class Ends(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NotText(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]  # noqa: PLE0307


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ValueError("no name")


class Anonymous(Exception, metaclass=Nameless):
    pass


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__(lambda: 3, iter([]))


RAISED: list[tuple[BaseException | type[BaseException], str]] = [
    (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    (Mute(), "Mute: (no text: its __str__ raised ValueError)"),
    (Ends(), "Ends: (no text: its __str__ raised SystemExit)"),
    (NotText(), "NotText: (no text: its __str__ raised TypeError)"),
    (Anonymous("x"), "Anonymous: x"),
    (Unpicklable(), "Unpicklable: (<function"),
    (SystemExit(2), "SystemExit: 2"),
    (SystemExit, "SystemExit"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
    (asyncio.CancelledError(), "CancelledError"),
    (StopIteration(), "StopIteration"),
    (MemoryError(), "MemoryError"),
    (RecursionError("deep"), "RecursionError: deep"),
    (ValueError("a\nb\x00\ud800"), "ValueError: a b"),
    (ValueError(10_000_000 * "x"), "ValueError: xxx"),
    (ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
     "ExceptionGroup: two (2 sub-exceptions); the first: ValueError: a"),
    (BaseExceptionGroup("one", [SystemExit(1)]), "BaseExceptionGroup: one (1 sub-exception)"),
    (RunFailedError("of a sweep within"), "RunFailedError: of a sweep within"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: 'utf-8'"),
]  # fmt: skip


def evaluate(function: Any) -> FakeChunk:
    backend = UserFunction(lambda: function, None, Grid.of({"a": [0, 1]}))  # type: ignore[arg-type]
    backend.start()
    chunk = FakeChunk(0, 2)
    chunk.stop_flag = StopFlag()  # type: ignore[attr-defined]
    assert backend.evaluate(chunk) == 2
    assert chunk.progress[0] == 2
    return chunk


@pytest.mark.parametrize(("error", "line"), RAISED, ids=[line[:30] for _, line in RAISED])
def test_anything_raised_is_one_failed_combination(
    error: BaseException | type[BaseException], line: str
) -> None:
    def f(_bars: object, params: Any, _stop: object) -> dict[str, float]:
        if params["a"] == 0:
            raise error
        return {"x": 1.0}

    chunk = evaluate(f)
    ((index, text),) = chunk.failed
    assert (index, chunk.rows.tolist()) == (0, [[1.0]])
    assert text.startswith(line)
    assert text.endswith(f"({__file__.rpartition('/')[2]}:{RAISED_AT})")
    assert len(text) < 3000
    assert "\n" not in text
    text.encode()


RAISED_AT = 1 + Path(__file__).read_text().splitlines().index("            raise error")


def test_a_failure_of_depth_is_one_too() -> None:
    def f(_bars: object, params: Any, _stop: object) -> Any:
        return f(_bars, params, _stop)

    assert [text[:14] for _, text in evaluate(f).failed] == 2 * ["RecursionError"]


def test_the_place_is_in_the_users_file_not_in_a_librarys() -> None:
    def f(_bars: object, _params: Any, _stop: object) -> dict[str, float]:
        return {"x": np.linalg.inv(np.zeros((2, 2)))[0, 0]}

    text = evaluate(f).failed[0][1]
    assert text.startswith("LinAlgError: Singular matrix (test_failure.py:")


def test_an_error_without_a_trace_is_described() -> None:
    assert describe(ValueError("x")) == "ValueError: x"


# -- what it returns ----------------------------------------------------------


class Side(enum.Enum):
    LONG = 1


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.StrEnum):
    RED = "red"


class Rude:
    def __float__(self) -> float:
        raise SystemExit(1)


UTC = datetime.UTC
KEPT: list[tuple[Any, Any]] = [
    # what a metric is; the cell: a float, None, or (kind, value)
    (1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.int64(3), 3.0), (np.bool_(True), 1.0),
    (decimal.Decimal("0.5"), 0.5), (fractions.Fraction(1, 4), 0.25), (np.array(2.0), 2.0),
    (float("inf"), float("inf")), (Level.HIGH, 3.0),
    (None, None), (np.datetime64("NaT"), None), (np.timedelta64("NaT"), None),
    ("long", ("text", "long")), ("", ("text", "")), ("a\ud800", ("text", "a?")),
    (5000 * "x", ("text", 2000 * "x")), (Side.LONG, ("text", "LONG")),
    (Colour.RED, ("text", "RED")), (np.str_("s"), ("text", "s")),
    (datetime.datetime(1970, 1, 1, 0, 0, 1, 5), ("time", 1_000_005)),
    (datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
     ("utc", -3_600_000_000)),
    (datetime.date(1970, 1, 2), ("time", 86_400_000_000)),
    (np.datetime64("1970-01-01T00:00:01.000000001"), ("time", 1_000_000)),
    (datetime.timedelta(seconds=-1), ("duration", -1_000_000)),
    (np.timedelta64(2, "s"), ("duration", 2_000_000)),
]  # fmt: skip


@pytest.mark.parametrize(("value", "cell"), KEPT, ids=[repr(value)[:40] for value, _ in KEPT])
def test_a_metric_is_kept_as_what_it_is_beside_the_numbers(value: Any, cell: Any) -> None:
    chunk = evaluate(lambda *_: {"x": value, "n": 2.5})
    assert (chunk.failed, chunk.remarks) == ([], [])
    assert chunk.rows[0, 1] == 2.5
    if isinstance(cell, float):
        assert chunk.rows[0, 0] == cell
    elif cell is None:
        assert special(chunk.rows)[0].tolist() == [True, False]
        assert chunk.rows[0, 0].tobytes() == np.float64(NULL).tobytes()
    else:
        assert chunk.values[0] == ("x", *cell)
        assert special(chunk.rows)[0].tolist() == [True, False]


def test_nan_stays_a_number() -> None:
    chunk = evaluate(
        lambda *_: {"x": float("nan"), "y": np.float64("nan"), "z": -np.float64("nan")}
    )
    assert not special(chunk.rows).any()
    assert np.isnan(chunk.rows).all()


@pytest.mark.parametrize("value", [[1], {}, object(), Rude(), 1j, b"x", 10**400, np.zeros(2), sys])
def test_what_cannot_be_kept_is_dropped_and_said(value: Any) -> None:
    chunk = evaluate(lambda *_: {"n": 2.5, "bad": value})
    assert (chunk.failed, chunk.rows.tolist()) == ([], [[2.5], [2.5]])
    (said,) = chunk.remarks
    assert said.startswith("metric bad is a")
    assert said.endswith("dropped")
    assert len(evaluate(lambda *_: {"bad": value}).failed) == 2


def test_pandas_values_are_kept() -> None:
    pandas = pytest.importorskip("pandas")
    stats = pandas.Series(
        {"Return": 1.5, "Start": pandas.Timestamp("1970-01-01"), "Duration": pandas.Timedelta("1s"),
         "none": pandas.NaT, "na": pandas.NA, "Equity": pandas.Series([1, 2])}
    )  # fmt: skip
    chunk = evaluate(lambda *_: stats)
    assert chunk.failed == []
    assert chunk.kept[0][1] == ("Return", "Start", "Duration", "none", "na")
    assert chunk.values[:2] == [("Start", "time", 0), ("Duration", "duration", 1_000_000)]
    assert special(chunk.rows)[0].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize(
    "value", [3.0, [1.0], {}, "x", dict, {str(at): at for at in range(10_001)}]
)
def test_what_is_no_row_is_a_failure(value: Any) -> None:
    chunk = evaluate(lambda *_: value)
    assert [index for index, _ in chunk.failed] == [0, 1]
    assert "strategy return" in chunk.failed[0][1]


def test_names_are_texts() -> None:
    chunk = evaluate(lambda *_: {1: 1.0, ("a", 2): 2.0, "\ud800": 3.0, 3000 * "n": 4.0})
    assert chunk.kept[0][1] == ("1", "('a', 2)", "?", 1000 * "n")


def test_a_disk_that_takes_no_text_is_not_the_combinations_fault() -> None:
    class Full(FakeChunk):
        def keep_value(self, metric: str, kind: str, value: str | int) -> float:
            raise RunFailedError("disk full")

    backend = UserFunction(lambda: lambda *_: {"x": "text"}, None, Grid.of({"a": [0]}))  # type: ignore[arg-type]
    backend.start()
    chunk = Full(0, 1)
    chunk.stop_flag = StopFlag()  # type: ignore[attr-defined]
    with pytest.raises(RunFailedError):
        backend.evaluate(chunk)
    assert chunk.failed == []
