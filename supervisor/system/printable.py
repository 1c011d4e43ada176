"""Text of users, files and other machines, made safe to show on a terminal."""

from __future__ import annotations

import codecs
import io
from typing import TextIO

_PLAIN = {"→": "->", "…": "...", "–": "-", "×": "x", "≤": "<=", "≥": ">=", "·": "*"}
"""Characters of our own messages, for a terminal that has only ASCII."""

_HANDLER = "allstop-encodable"


def printable(text: str) -> str:
    r"""Return a text on one line, without a character that a terminal would obey.

    Names of parameters, columns, paths, hosts and jobs come from users, files and servers.
    Escape sequences in them could clear the screen, set its title or reorder what is shown.
    Whatever does not print is shown as Python writes it: ``\x1b``, ``\u202e``. Bytes of a path
    that are no UTF-8 are shown as what they are: ``\xff``. Applied twice, it changes nothing
    more.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a path, by surrogateescape (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _encodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or ascii(one)[1:-1] for one in missing), error.end


codecs.register_error(_HANDLER, _encodable)


def make_encodable(*streams: TextIO) -> None:
    """Have streams write in ASCII what their encoding lacks, instead of raising an error."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)
