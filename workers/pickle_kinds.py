"""Kinds of objects that cloudpickle does not carry, and how they are carried all the same."""

from __future__ import annotations

import functools
import pickletools
import threading
import typing
import weakref
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

_MAX_SCANNED = 2**20
"""Bytes of a pickle that is looked through: a large one is mostly data."""

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]

_Cached: Any = type(functools.lru_cache(lambda: None))


def with_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Give a function an empty cache of its own; called where it is rebuilt."""
    return functools.lru_cache(**parameters)(function)


def _of_cached(thing: Any) -> Reduced:
    return with_cache, (thing.__wrapped__, thing.cache_parameters())


def _of_new_type(thing: Any) -> Reduced:
    return typing.NewType, (thing.__name__, thing.__supertype__)


def _of_mapping(thing: Any) -> Reduced:
    return type(thing), (dict(thing),)


BY_VALUE: dict[Any, Callable[[Any], Reduced]] = {
    # a lock travels as a new one, for another process cannot hold it; a cached_property has one
    type(threading.Lock()): lambda _: (threading.Lock, ()),
    type(threading.RLock()): lambda _: (threading.RLock, ()),
    # a function under singledispatch has these two
    weakref.WeakKeyDictionary: _of_mapping,
    MappingProxyType: _of_mapping,
    _Cached: _of_cached,
    typing.NewType: _of_new_type,
}
NAMED = frozenset({_Cached, typing.NewType})
"""Those that travel by name where their module is one that workers find."""


def left_in_main(data: bytes) -> list[str]:
    """Name what a pickle expects to find in the main module of the process that loads it."""
    if len(data) > _MAX_SCANNED or b"__main__" not in data:
        return []
    found: list[str] = []
    memo: list[object] = []
    texts: list[object] = []
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "MEMOIZE":
                memo.append(texts[-1] if texts else None)
            case "BINGET" | "LONG_BINGET":
                texts.append(memo[int(argument or 0)])
            case "STACK_GLOBAL":
                if texts[-2:-1] == ["__main__"]:
                    found.append(str(texts[-1]))
                texts.append(None)
            case "GLOBAL":
                module, _, name = str(argument).partition(" ")
                found += [name] if module == "__main__" else []
                texts.append(None)
            case "FRAME" | "PROTO":
                pass
            case _:
                texts.append(argument if isinstance(argument, str) else None)
    return list(dict.fromkeys(found))
