"""What a function returns, made into the cells of a row.

Numbers are kept as float64; None, NaT and NA as nothing; texts, times and durations as such
columns. What else there is, an array or an object, is dropped, and said once for each metric:
one of them must not cost the others.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from supervisor.errors import UserFunctionError
from supervisor.rows.cells import NULL, CellKind
from workers.backend import Chunk

_MOST_SAID = 100

MAX_METRICS = 10_000
MAX_NAME = 1000
MAX_TEXT = 2000
"""Characters of a name and of a text that are kept."""

_known_names: dict[str, str] = {}
"""Names as they are kept, of those that were seen: the same ones come with every row."""

_MICROSECOND = datetime.timedelta(microseconds=1)
_EPOCH = datetime.datetime(1970, 1, 1)


def row(metrics: Mapping[str, Any], chunk: Chunk, said: set[str]) -> dict[str, float]:
    """Make a row of what a function has returned.

    Parameters
    ----------
    metrics : mapping
        What it is.
    chunk : Chunk
        Takes what is no number.
    said : set of str
        What this worker has said of metrics that were dropped.

    Raises
    ------
    UserFunctionError
        If it is no mapping, or has nothing that can be kept.
    """
    found = metrics if type(metrics) is dict else _as_dict(metrics)
    if not 0 < len(found) <= MAX_METRICS:
        _refuse_number(len(found))
    cells: dict[str, float] = {}
    dropped: list[tuple[str, Any]] = []
    for name, value in found.items():
        key = _known_names.get(name) or _key(name)
        if isinstance(value, float):
            cells[key] = float(value)
            continue
        cell = _cell(key, value, chunk)
        if cell is None:
            dropped.append((key, value))
        else:
            cells[key] = cell
    if not cells:
        name, value = dropped[0]
        raise UserFunctionError(
            f"metric {name!r} is {_article(value)}, not a number, a text or a time, and there is "
            "no other"
        )
    for name, value in dropped:
        _say(f"metric {name} is {_article(value)}, not a number, a text or a time: dropped",
             chunk, said)  # fmt: skip
    return cells


def _say(text: str, chunk: Chunk, said: set[str]) -> None:
    if text not in said and len(said) < _MOST_SAID:
        said.add(text)
        chunk.remark(text)


def _as_dict(metrics: Any) -> Mapping[Any, Any]:
    if isinstance(metrics, Mapping):
        return metrics
    if isinstance(metrics, type) or not callable(getattr(metrics, "keys", None)):
        raise UserFunctionError(f"a strategy returns a dict of floats, not {_article(metrics)}")
    return {name: metrics[name] for name in metrics.keys()}  # noqa: SIM118 - a pd.Series


def _refuse_number(n: int) -> None:
    if n == 0:
        raise UserFunctionError("a strategy returned an empty dict: name at least one metric")
    raise UserFunctionError(f"a strategy returned {n:,} metrics: at most {MAX_METRICS:,} are kept")


def _key(name: object) -> str:
    key = str(name)[:MAX_NAME].encode("utf-8", "replace").decode()
    if type(name) is str and len(_known_names) < MAX_METRICS:
        _known_names[name] = key
    return key


def _cell(name: str, value: Any, chunk: Chunk) -> float | None:
    """Return what stands for a value in a row; None: it cannot be kept."""
    if _is_nothing(value):
        return NULL
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        text = str(value)[:MAX_TEXT].encode("utf-8", "replace").decode()
        return chunk.keep_value(name, CellKind.TEXT, text)
    if isinstance(value, enum.Enum) and not isinstance(value, int | float):
        return chunk.keep_value(name, CellKind.TEXT, str(value.name)[:MAX_TEXT])
    moment = _moment(value)
    if moment is not None:
        return chunk.keep_value(name, *moment)
    try:
        return float(value)
    except BaseException:  # noqa: BLE001 - its __float__ is the user's
        return None


def _is_nothing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return type(value).__name__ in ("NaTType", "NAType")  # pandas, which is not imported for this


def _moment(value: Any) -> tuple[CellKind, int] | None:
    """Return a time or duration in whole µs; None: it is neither."""
    if isinstance(value, np.datetime64):
        return CellKind.TIME, int(value.astype("datetime64[us]").astype(np.int64))
    if isinstance(value, np.timedelta64):
        return CellKind.DURATION, int(value.astype("timedelta64[us]").astype(np.int64))
    if isinstance(value, datetime.timedelta):
        return CellKind.DURATION, value // _MICROSECOND
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None and value.utcoffset() is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
            return CellKind.UTC, (value - _EPOCH) // _MICROSECOND
        return CellKind.TIME, (value.replace(tzinfo=None) - _EPOCH) // _MICROSECOND
    if isinstance(value, datetime.date):
        midnight = datetime.datetime(value.year, value.month, value.day)
        return CellKind.TIME, (midnight - _EPOCH) // _MICROSECOND
    return None


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
