"""Which part of a function cannot travel: one that fails to pickle, and where it hangs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

_MAX_DEPTH = 12
_MAX_TRIES = 2000
_MAX_ITEMS = 1000

Part = tuple[str, object]
"""Where it is, in words, and the part itself."""


def culprit(function: object, dumps: Callable[[object], object]) -> tuple[str, str]:
    """Find the innermost part of a function that cannot be pickled.

    Parameters
    ----------
    function : object
        What cannot be pickled as a whole.
    dumps : callable
        Pickles, or raises.

    Returns
    -------
    where, what : str
        Such as ``closure variable 'feed', attribute 'lock'`` and ``a _thread.lock``.
    """
    search = _Search(dumps)
    trail, last = search.descend(function)
    return ", ".join(trail) or "it", f"a {_kind(last)}"


class _Search:
    def __init__(self, dumps: Callable[[object], object]) -> None:
        self._dumps = dumps
        self._seen: set[int] = set()
        self._tries = 0

    def descend(self, thing: object, depth: int = 0) -> tuple[list[str], object]:
        """Follow the first part that fails, and within it again."""
        self._seen.add(id(thing))
        if depth < _MAX_DEPTH:
            for where, part in _parts(thing):
                if id(part) not in self._seen and self._fails(part):
                    trail, last = self.descend(part, depth + 1)
                    return [where, *trail], last
        return [], thing

    def _fails(self, part: object) -> bool:
        self._tries += 1
        if self._tries > _MAX_TRIES:
            return False
        try:
            self._dumps(part)
        except Exception:  # noqa: BLE001 - this is the question
            return True
        return False


def _parts(thing: object) -> Iterator[Part]:
    if isinstance(thing, MethodType):
        yield "its object", thing.__self__
        yield "its function", thing.__func__
    elif isinstance(thing, FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, functools.partial):
        yield "the function of the partial", thing.func
        for at, value in enumerate(thing.args):
            yield f"argument {at} of the partial", value
        for name, value in thing.keywords.items():
            yield f"argument {name!r} of the partial", value
    elif isinstance(thing, Mapping):
        for key, value in list(thing.items())[:_MAX_ITEMS]:
            yield f"key {key!r:.60}", value
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for at, value in enumerate(list(thing)[:_MAX_ITEMS]):
            yield f"item {at}", value
    else:
        yield from _of_object(thing)


def _of_function(function: FunctionType) -> Iterator[Part]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"closure variable {name!r}", cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    arguments = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    for name, value in zip(arguments[len(arguments) - len(defaults) :], defaults, strict=False):
        yield f"default of argument {name!r}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default of argument {name!r}", value
    for name in sorted(_names_in(code)):
        if name in function.__globals__:
            yield f"global {name!r}", function.__globals__[name]
    for name, value in vars(function).items():
        yield f"attribute {name!r}", value


def _names_in(code: CodeType) -> set[str]:
    """Names that a function looks up, and those within it do."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in(constant)
    return names


def _of_object(thing: object) -> Iterator[Part]:
    attributes: dict[str, Any] = dict(getattr(thing, "__dict__", {}))
    kinds = [] if isinstance(thing, type) else type(thing).__mro__
    for kind in kinds:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                attributes.setdefault(name, getattr(thing, name))
    for name, value in attributes.items():
        if not (name.startswith("__") and name.endswith("__") and not callable(value)):
            yield f"attribute {name!r}", value
    if not isinstance(thing, type) and type(thing).__module__ == "__main__":
        yield "its class", type(thing)


def _kind(thing: object) -> str:
    kind = type(thing)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
