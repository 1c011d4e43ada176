"""HTML that is escaped by construction: what is put into a template is text, unless it is HTML."""

from __future__ import annotations

import string
from collections.abc import Iterable
from html import escape
from typing import Any


class Markup(str):
    """Text that is HTML: it was made by :func:`fill`, or written in this package."""

    __slots__ = ()


class _Filler(string.Formatter):
    def format_field(self, value: Any, spec: str) -> str:
        if isinstance(value, Markup):
            return value
        try:
            return escape(format(value, spec))
        except (TypeError, ValueError, OverflowError):  # no number, though one is expected
            return escape(str(value))


_FILLER = _Filler()


def fill(template: str, *values: object, **named: object) -> Markup:
    """Return a template with its fields filled in, as ``str.format`` does, and escaped.

    Parameters
    ----------
    template : str
        HTML of this package, with fields such as ``{}`` or ``{rows:,}``.
    *values, **named : object
        Text to escape, whatever its type; or :class:`Markup`.
    """
    return Markup(_FILLER.vformat(template, values, named))


def join(parts: Iterable[Markup]) -> Markup:
    """Return HTML parts as one."""
    return Markup("".join(parts))


def each(template: str, values: Iterable[object]) -> Markup:
    """Return a template filled once for each value."""
    return join(fill(template, value) for value in values)
