"""Why a combination failed, as one line, whatever was raised."""

from __future__ import annotations

import os
import sys
from types import TracebackType

_MAX_TEXT = 2000
"""Characters of a message that are looked at: one may have gigabytes."""

_OURS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")  # noqa: PTH100, PTH118, PTH120
_LIBRARIES = tuple(
    os.path.join(prefix, "lib", "python")  # noqa: PTH118
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))
)


def describe(error: BaseException, *, place: bool = True) -> str:
    """Return an error as one line: its type, what it says, and where it was raised.

    Never raises: neither a message that cannot be made nor one without end is an obstacle.
    The place is the last one in the user's own files, not in a library's.
    """
    try:
        return " ".join(f"{_named(error)}{_place(error.__traceback__) if place else ''}".split())
    except BaseException:  # noqa: BLE001 - the user's class may have made anything fail
        return "an exception that cannot be described"


def _named(error: BaseException) -> str:
    name = type.__dict__["__name__"].__get__(type(error))
    text = _text(error)
    line = f"{name}: {text}" if text else name
    if isinstance(error, BaseExceptionGroup) and error.exceptions:
        return f"{line}; the first: {_named(error.exceptions[0])[:_MAX_TEXT]}"
    return line


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_TEXT].encode("utf-8", "replace").decode()
    except BaseException as second:  # noqa: BLE001 - its __str__ is the user's
        return f"(no text: its __str__ raised {type(second).__name__})"


def _place(trace: TracebackType | None) -> str:
    """Name the file and the line; frames of this package are passed over."""
    last = own = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        here = f" ({os.path.basename(file)}:{trace.tb_lineno})"  # noqa: PTH119
        if not file.startswith(_OURS):
            last = here
            if not file.startswith((*_LIBRARIES, "<frozen")):
                own = here
        trace = trace.tb_next
    return own or last
