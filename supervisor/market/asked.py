"""What the user says of a file's columns: ``--columns`` and ``--symbol``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.errors import ConfigError, brief
from supervisor.market.names import ROLES

_DATE = "date"
_MOST = 4096
"""Characters of all names together."""
_SKIPPED = ("-", "_", "")
_KNOWN = (*ROLES, _DATE, "symbol")
_EXAMPLE = "time,open,high,low,close,volume for columns in this order, or close=NAME,time=NAME"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which columns, and which instrument, a user has asked for.

    Attributes
    ----------
    columns : str
        Names in the order of the columns, ``time,open,-,close``, or ``close=Settle,time=Day``;
        empty: found by their names.
    symbol : str
        The instrument, where there are several; empty: there is one.
    """

    columns: str = ""
    symbol: str = ""

    @property
    def order(self) -> list[str]:
        """The names by position, if they were given so."""
        return [] if "=" in self.columns or not self.columns else self.columns.split(",")

    @property
    def chosen(self) -> dict[str, str]:
        """The column of each part, as far as they were named so."""
        pairs = self.columns.split(",") if "=" in self.columns else []
        return {part: name for part, _, name in (pair.partition("=") for pair in pairs)}

    def __bool__(self) -> bool:
        """Whether anything was asked for."""
        return bool(self.columns or self.symbol)


def check_columns(value: Any, name: str = "columns") -> str:
    """Return the names of columns as one text, see :attr:`Asked.columns`.

    Takes a text, a list of names, or a mapping from open, high, low, close, volume, time,
    date or symbol to names.

    Raises
    ------
    ConfigError
        If it names a part that there isn't, or one twice.
    """
    if isinstance(value, Mapping):
        parts = [f"{part}={column}" for part, column in value.items()]
    elif isinstance(value, str):
        parts = value.split(",")
    elif isinstance(value, Iterable):
        parts = [str(part) for part in value]
    else:
        raise ConfigError(f"{name} must name columns, {_EXAMPLE}, not {brief(value)}")
    parts = [part.strip() for part in parts]
    if sum(map(len, parts)) > _MOST or any("\0" in part for part in parts):
        raise ConfigError(f"{name} must name columns, {_EXAMPLE}, not {brief(value)}")
    named = [part.partition("=") for part in parts]
    if any(equals for _, equals, _ in named):
        return _checked_names(named, name, value)
    words = [part.lower() for part in parts]
    words = ["-" if word in _SKIPPED or word not in _KNOWN else word for word in words]
    _refuse_twice(words, name)
    if "close" not in words or not {"time", _DATE} & set(words):
        raise ConfigError(f"{name} must have time and close: {_EXAMPLE}; not {brief(value)}")
    return ",".join(words)


def _checked_names(named: list[tuple[str, str, str]], name: str, value: Any) -> str:
    pairs = [(part.strip().lower(), column.strip()) for part, _, column in named]
    for (part, column), (_, equals, _) in zip(pairs, named, strict=True):
        if part not in _KNOWN or not equals or not column or "," in column:
            raise ConfigError(
                f"{name}: {brief(part)} is no part of a bar; there are {', '.join(_KNOWN)}: "
                f"write {_EXAMPLE}, not {brief(value)}"
            )
    _refuse_twice([part for part, _ in pairs], name)
    return ",".join(f"{part}={column}" for part, column in pairs)


def _refuse_twice(parts: list[str], name: str) -> None:
    twice = [part for part in _KNOWN if parts.count(part) > 1]
    if twice:
        raise ConfigError(f"{name} names {twice[0]} twice")


def check_symbol(value: Any, name: str = "symbol") -> str:
    """Return the name of an instrument."""
    if isinstance(value, str) and value.strip() and "\0" not in value and len(value) <= _MOST:
        return value.strip()
    raise ConfigError(f"{name} must be the name of an instrument, not {brief(value)}")
