"""A sweep written down in a TOML file; :mod:`supervisor.lifecycle.options` has its keys.

::

    strategy = "sma_cross"
    data = "bars.csv"          # relative to the file's own directory
    workers = 4

    [grid]
    fast = "5:50:5"            # start:stop:step, stop included
    slow = [60, 90, 120]

    [stop]
    grace = 2.0

    [slurm]                    # on a cluster instead of this machine
    tasks = 50
    job = { partition = "cpu", time_limit = "2:00:00", cpus = 8 }
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from supervisor.errors import ConfigError, brief
from supervisor.lifecycle.options import OPTIONS, Given, Kind, Option
from supervisor.rows.grid import parse_axis
from supervisor.system.small_file import read_small_text

KEYS: dict[str, dict[str, Option]] = {
    section: {option.name: option for option in OPTIONS if option.section == section}
    for section in dict.fromkeys(option.section for option in OPTIONS)
    if section is not None
}
"""The options of each table of a spec file; the root's name is empty."""
_PART = r"""(?:"(?:\\.|[^"\\\n])*+"?+|'[^'\n]*+'?+|[\w-]++)"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+")
"""A key, and what else looks like one. It consumes whatever it has looked at: linear in time."""
_MAX_PARTS = 50

SECTIONS = [section for section in KEYS if section]


def read_spec(path: Path) -> Given:
    """Read a spec file.

    Returns
    -------
    dict
        What it sets, by the names of :data:`~supervisor.lifecycle.options.OPTIONS`, checked.
        A table ``[slurm]`` sets ``slurm``.

    Raises
    ------
    ConfigError
        If it cannot be read; names the file and the key, and for an unknown key those of its
        table.
    """
    plain = _load(path)
    tables: dict[str, Mapping[str, Any]] = {"": plain}
    for section in SECTIONS:
        tables[section] = _table(path, section, plain.get(section, {}))
    for section, table in tables.items():
        for key in table:
            _check_known(path, section, key)
    given: Given = {}
    for section, table in tables.items():
        for option in KEYS[section].values():
            if option.name in table:
                given[option.name] = _value(path, option, table[option.name])
            elif option.required:
                _refuse(path, f"key {option.key!r} is missing{_keys_of(section)}", option.key)
    if "slurm" in plain:
        given["slurm"] = True
    return given


def _load(path: Path) -> dict[str, Any]:
    try:
        text = read_small_text(path)
        _check_depth(path, text)
        return tomllib.loads(text)
    except OSError as error:
        _refuse(path, str(error.strerror), "spec")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        _refuse(path, f"not TOML: {error}", "spec")
    except ValueError:
        _refuse(path, "not TOML that can be read: a number has thousands of digits", "spec")
    except RecursionError:
        _refuse(path, "not TOML that can be read: it is nested too deeply", "spec")


def _check_depth(path: Path, text: str) -> None:
    """Refuse a key of very many parts: the parser takes the square of their number in time."""
    deep = (key for key in _KEY.finditer(text) if key[0].count(".") >= _MAX_PARTS)
    if key := next(deep, None):
        line = text.count("\n", 0, key.start()) + 1
        _refuse(path, f"line {line}: a key of more than {_MAX_PARTS} parts", "spec")


def _table(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(path, f"key {name!r} must be a table, [{name}], not {brief(value)}", name)
    return value


def _check_known(path: Path, section: str, key: str) -> None:
    if key in KEYS[section] or (not section and key in SECTIONS):
        return
    home = next((name for name in SECTIONS if key in KEYS[name]), None)
    if not section and home:
        _refuse(path, f"key {key!r} belongs in the table [{home}]", key)
    dotted = f"{section}.{key}" if section else key
    _refuse(path, f"unknown key {dotted!r}{_keys_of(section)}", dotted)


def _keys_of(section: str) -> str:
    names = ", ".join([*KEYS[section], *([] if section else SECTIONS)])
    return f"; the keys of [{section}] are: {names}" if section else f"; the keys are: {names}"


def _value(path: Path, option: Option, value: Any) -> Any:
    """Check the value of a key; paths in it are relative to the file."""
    if option.kind in (Kind.TEXT, Kind.PATH) and not isinstance(value, str):
        _refuse(path, f"key {option.key!r} must be a text, not {brief(value)}", option.key)
    if option.name == "grid":
        return _points(path, value) if isinstance(value, list) else _axes(path, value)
    if option.kind is Kind.TABLE:
        _table(path, option.key, value)
    checked = option.checked(value, f"spec {path}: key {option.key!r}", option.key)
    if option.name == "strategy":
        return _beside(path, checked)
    return path.parent / checked if option.kind is Kind.PATH else checked


def _points(path: Path, grid: list[Any]) -> list[Mapping[str, Any]]:
    """Read ``[[grid]]``: a table for each point."""
    for at, point in enumerate(grid):
        if not isinstance(point, Mapping):
            _refuse(path, f"key 'grid': point {at} must be a table, not {brief(point)}", "grid")
        for name, value in point.items():
            _check_value(path, f"grid.{name}", value)
    return grid


def _check_value(path: Path, key: str, value: Any) -> None:
    if not isinstance(value, bool | int | float | str | dt.date | dt.time):
        _refuse(
            path,
            f'key {key!r} must be "start:stop:step", or a list of numbers, texts, dates, times '
            f"or true and false, not {brief(value)}",
            key,
        )


def _axes(path: Path, grid: Any) -> dict[str, Sequence[Any]]:
    _table(path, "grid", grid)
    if not grid:
        _refuse(path, '[grid] is empty: give at least one parameter, fast = "5:50:5"', "grid")
    axes: dict[str, Sequence[Any]] = {}
    for name, values in grid.items():
        key = f"grid.{name}"
        if isinstance(values, str):
            try:
                axes[name] = parse_axis(f"{name}={values}")[1]
            except ConfigError as error:
                _refuse(path, f"key {key!r}: {error}", key)
            continue
        axes[name] = values if isinstance(values, list) else [values]
        for value in axes[name]:
            _check_value(path, key, value)
    return axes


def _beside(path: Path, strategy: str) -> str:
    """Take ``file.py:function`` relative to the spec file, as its author sees it."""
    home, colon, name = strategy.rpartition(":")
    return f"{path.parent / home}:{name}" if colon and home.endswith(".py") else strategy


def _refuse(path: Path, what: str, key: str) -> NoReturn:
    raise ConfigError(f"spec {path}: {what}", key=key) from None
