"""Numbers as people write them: ``$1,234.50``, ``1.234,50``, ``1.23M``.

Whether a comma parts thousands or is the decimal point is decided once for all columns of a
file: a file has one author.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.market.columns import BadCell, as_arrow, floats, is_text, shown, trimmed

_ORNAMENT = r"[$€£¥₹'’\s\x{A0}\x{202F}\x{2009}]"
_AMERICAN = r"^[+-]?\d{1,3}(,\d{3})+(\.\d*)?[KMBTkmbt]?$"
_EUROPEAN = r"^[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d*)?[KMBTkmbt]?$"
_SURELY_AMERICAN = (
    r"^[+-]?\d{1,3}(,\d{3})+\.\d*|,\d{3},\d{3}|^[+-]?\d+\.(\d{1,2}|\d{4,})[KMBTkmbt]?$"
)
_SURELY_EUROPEAN = (
    r"^[+-]?\d{1,3}(\.\d{3})+,\d*|\.\d{3}\.\d{3}|^[+-]?(0|\d{4,}),\d"
    r"|^[+-]?\d+,(\d{1,2}|\d{4,})[KMBTkmbt]?$"
)
_SCALES = {"K": 3, "M": 6, "B": 9, "T": 12}


def numbers(
    columns: Mapping[str, Any],
    names: Mapping[str, str],
    said: list[str],
    *,
    semicolons: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Convert columns of numbers; what is missing becomes NaN.

    Parameters
    ----------
    columns : mapping of str to column
        Values of each, see :func:`supervisor.market.columns.floats`.
    names : mapping of str to str
        What the user calls them.
    said : list of str
        Receives how commas were read.
    semicolons : bool
        Whether the cells were separated by semicolons, which is done where a comma is the
        decimal point.

    Raises
    ------
    BadCell
        Names the first cell that is not a number.
    """
    try:
        return {key: floats(values, names[key]) for key, values in columns.items()}
    except BadCell as plainly:
        texts = {key: as_arrow(values) for key, values in columns.items()}
        texts = {key: _bare(text) for key, text in texts.items() if is_text(text.type)}
        if not texts or not any(_is_written(text) for text in texts.values()):
            raise
        read = _reader(texts, said, semicolons=semicolons)
        found = {}
        for key, values in columns.items():
            if key not in texts:
                found[key] = floats(values, names[key])
                continue
            try:
                found[key] = read(texts[key], names[key])
            except BadCell as bad:
                row = bad.row or 0
                cell = shown(str(as_arrow(values)[row]).strip())
                raise BadCell(f"{names[key]} is {cell}, not a number", row) from plainly
        return found


def _bare(column: Any) -> Any:
    """Cut off blanks and signs of currency."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = trimmed(pc.replace_substring_regex(column.cast(pa.string()), _ORNAMENT, ""))
    return pc.if_else(pc.equal(text, "-"), pa.scalar(None, pa.string()), text)


def _is_written(column: Any) -> bool:
    """Whether a column is changed by reading it as written numbers."""
    return _any(column, r"^[+-]?[\d.,]+[KMBTkmbt]?$")


def _any(column: Any, pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring_regex(column, pattern)).as_py())


def _reader(
    texts: Mapping[str, Any], said: list[str], *, semicolons: bool
) -> Callable[[Any, str], NDArray[np.float64]]:
    """Decide what commas are, and return what reads a column accordingly."""
    with_commas = any(_any(text, ",") for text in texts.values())
    if not with_commas:
        return _scaled
    american = any(_any(text, _SURELY_AMERICAN) for text in texts.values())
    european = any(_any(text, _SURELY_EUROPEAN) for text in texts.values())
    decimal = european if american != european else semicolons
    said.append(f"commas read as {'decimal points' if decimal else 'separators of thousands'}")
    return _european if decimal else _american


def _american(column: Any, name: str) -> NDArray[np.float64]:
    import pyarrow.compute as pc

    good = pc.match_substring_regex(column, _AMERICAN)
    return _scaled(pc.if_else(good, pc.replace_substring(column, ",", ""), column), name)


def _european(column: Any, name: str) -> NDArray[np.float64]:
    import pyarrow.compute as pc

    good = pc.match_substring_regex(column, _EUROPEAN)
    plain = pc.replace_substring(pc.replace_substring(column, ".", ""), ",", ".")
    return _scaled(pc.if_else(good, plain, column), name)


def _scaled(column: Any, name: str) -> NDArray[np.float64]:
    """Read numbers that may end in K, M, B or T."""
    import pyarrow.compute as pc

    for letter, exponent in _SCALES.items():
        column = pc.replace_substring_regex(column, rf"(\d)(?i:{letter})$", rf"\1e{exponent}")
    return floats(column, name)
