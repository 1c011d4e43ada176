"""Cells of text taken apart into year, month, day, hour … by a pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.market.arrow import text_to_arrow, to_numpy
from supervisor.market.columns import BadCell, shown
from supervisor.market.time_window import NS_PER_S

MAX_CELL = 64
"""Characters of the longest time that is read."""

_ZONE_NAME = re.compile(r".*\d ?\[?([A-Za-z]+/[A-Za-z_/]+|[A-Z]{3,4})\]?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def no_time(text: str, cells: Any, name: str) -> str:
    """Say that a text is no time like the first, or that it names a zone."""
    zone = _ZONE_NAME.fullmatch(text[:MAX_CELL])
    if zone and zone[1] not in ("UTC", "GMT"):
        return f"{name} {shown(text)} names a zone: write it in UTC, or with an offset (+01:00)"
    if text == str(cells[0]):
        return f"{name} {shown(text)} is no time that there is: correct it or delete the row"
    return f"{name} {shown(text)} is no time written like the first, {shown(cells[0])}"


@dataclass(frozen=True, slots=True)
class Fields:
    """What a pattern's groups have found in each cell, as numbers; 0 where a group is empty."""

    found: dict[str, NDArray[np.int64]]

    def __getitem__(self, key: str) -> NDArray[np.int64]:
        return self.found[key]

    def __contains__(self, key: str) -> bool:
        return key in self.found

    @property
    def clock_ns(self) -> NDArray[np.int64]:
        """Time of day in ns; -1 where there is no such time."""
        hour, minute, second = (self.found[key] for key in "HMS")
        afternoon = self.found["ap"]  # 0: 24 hours, 1: am, 2: pm
        good = (minute < 60) & (second < 60) & np.where(afternoon > 0, hour <= 12, hour < 24)
        hour = np.where(afternoon > 0, hour % 12 + 12 * (afternoon == 2), hour)
        clock = ((hour * 60 + minute) * 60 + second) * NS_PER_S + self.found["f"]
        return np.where(good, clock, -1)


def extracted(column: Any, pattern: str, name: str) -> Fields:
    """Take every cell apart by a pattern of RE2 with named groups.

    Raises
    ------
    BadCell
        Names the first cell that doesn't match.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.cast(pa.string())
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    # RE2's function takes groups with names alone
    parts = pc.extract_regex(column, re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern))
    if parts.null_count:
        row = pc.index(parts.is_null(), True).as_py()
        raise BadCell(no_time(str(column[row]), column, name), row)
    names = re.findall(r"\?P<(\w+)>", pattern)
    return Fields({key: _field(parts.field(key), key) for key in names})


def _field(part: Any, key: str) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if key in ("ap", "mon", "z"):
        words = {"ap": ("a", "p"), "mon": _MONTHS, "z": ("z", "utc", "gmt")}[key]
        index = pc.index_in(pc.utf8_lower(part), value_set=text_to_arrow(words))
        return to_numpy(pc.add(index.fill_null(-1).cast(pa.int64()), 1))
    if key == "f":  # .25 is 250,000,000 ns
        part = pc.utf8_rpad(part, 9, "0")
    if key == "off":
        return _offset_ns(part)
    part = pc.if_else(pc.equal(part, ""), "0", part)
    return to_numpy(part.cast(pa.int64()))


def _offset_ns(part: Any) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    digits = pc.utf8_rpad(pc.replace_substring(pc.utf8_slice_codeunits(part, 1), ":", ""), 4, "0")
    number = to_numpy(digits.cast(pa.int64()))
    sign = np.where(to_numpy(pc.starts_with(part, "-").cast(pa.int64())) == 1, -1, 1)
    offset: NDArray[np.int64] = sign * (number // 100 * 60 + number % 100) * 60 * NS_PER_S
    return offset
