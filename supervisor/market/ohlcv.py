"""Make checked bars of the columns in what a user calls market data.

Whatever is wrong is one :class:`~supervisor.errors.DataError` that names the
file, the row and the fix.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DataError
from supervisor.market import soundness
from supervisor.market.asked import Asked
from supervisor.market.choice import Choice, choose, refuse_ambiguous, refuse_several
from supervisor.market.columns import BadCell, as_arrow, shown
from supervisor.market.names import ADJUSTED, PRICES, is_pair, plain
from supervisor.market.table import Table
from supervisor.market.tables import open_table
from supervisor.market.times import is_clock, join_times, times
from supervisor.market.written_numbers import numbers

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Market:
    """Checked columns, each of shape (n_bars,): float64, ``time`` int64 ns since the epoch, UTC.

    ``notes`` says which columns were taken, and what was done to them.
    """

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    time: NDArray[np.int64]
    source: str
    notes: tuple[str, ...] = ()


def read_market(source: object, asked: Asked | None = None) -> Market:
    """Read and check market data; see :func:`supervisor.market.bars.load_bars`."""
    reading = None
    try:
        reading = _Reading(open_table(source), asked or Asked())
        return reading.market()
    except BadCell as bad:
        where = reading.table.source if reading else str(source)
        row = None if bad.row is None or reading is None else reading.row(bad.row)
        raise DataError(bad.message, path=where, row=row) from None
    except MemoryError:
        where = str(source) if isinstance(source, str | os.PathLike) else "data"
        raise DataError("memory does not suffice for it: give a part of it", path=where) from None


@dataclass
class _Reading:
    """Columns on their way to bars.

    Attributes
    ----------
    rows : ndarray of int64 or None
        The rows of the table that are left; None: all of them, in their order.
    names : dict of str to str
        What the column was called that each part was taken from.
    """

    table: Table
    asked: Asked
    rows: NDArray[np.int64] | None = None
    names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def row(self, at: int) -> int:
        """What the user calls a row."""
        return self.table.row(at if self.rows is None else int(self.rows[at]))

    def market(self) -> Market:
        choice = choose(self.table, self.asked)
        taken = self._read(choice)
        several = self._one_instrument(choice, taken)
        values = self._values(choice, taken)
        time = self._times(choice, taken)
        soundness.check_lengths({len(column) for column in (*values.values(), time)})
        if choice.symbol:
            values, time = self._traded(values, time)
        self._check(values)
        if time[0] > time[-1] and (np.diff(time) <= 0).all():
            values = {part: column[::-1].copy() for part, column in values.items()}
            time = time[::-1].copy()
            self.rows = np.arange(len(time))[::-1] if self.rows is None else self.rows[::-1]
            self.notes.append("newest first: the rows were reversed")
        self._check_order(time, several)
        close = values["close"]
        return Market(
            **{part: values.get(part, close) for part in PRICES},
            volume=values["volume"] if "volume" in values else np.zeros(len(close)),
            time=time,
            source=self.table.source,
            notes=(self._columns_taken(choice), *dict.fromkeys(self.notes)),
        )

    def _read(self, choice: Choice) -> dict[int, Any]:
        parts = {at for ats in choice.parts.values() for at in ats}
        order = sorted(parts if choice.symbol_at is None else parts | {choice.symbol_at})
        wanted = [at for part, ats in choice.parts.items() if part != "time" for at in ats]
        return dict(zip(order, self.table.columns(order, wanted), strict=True))

    # --- instruments ---------------------------------------------------------------------------

    def _one_instrument(self, choice: Choice, taken: dict[int, Any]) -> list[str]:
        """Keep the rows of the instrument that was asked for; return all, where none was."""
        asked = self.asked.symbol
        if choice.symbol_at is None:
            if asked and not choice.symbol:
                raise BadCell(
                    f"has no column that names instruments: leave --symbol {asked} out, or say "
                    "which it is with --columns symbol=NAME"
                )
            return []
        cells = as_arrow(taken.pop(choice.symbol_at)).cast("string")
        known = [str(cell) for cell in cells.unique().to_pylist() if cell is not None]
        if not asked:
            return known if len(known) > 1 else []
        wanted = next((name for name in known if name.strip().casefold() == asked.casefold()), None)
        if wanted is None:
            listed = ", ".join(known[:6]) + (", …" if len(known) > 6 else "")
            raise BadCell(f"--symbol {shown(asked)} is not in it: {listed or 'no names at all'}")
        if len(known) > 1:
            import pyarrow.compute as pc

            mine = pc.equal(cells, wanted).fill_null(False)
            self.rows = np.flatnonzero(np.asarray(mine.to_pylist(), dtype=np.bool_))
            for at, column in taken.items():
                taken[at] = _some_rows(column, self.rows)
        self.notes.append(f"instrument: {wanted}, {len(known)} in the data")
        return []

    def _traded(
        self, values: dict[str, Floats], time: NDArray[np.int64]
    ) -> tuple[dict[str, Floats], NDArray[np.int64]]:
        """Leave out rows in which only other instruments have prices."""
        kept = ~np.all([np.isnan(values[part]) for part in PRICES if part in values], axis=0)
        if kept.all():
            return values, time
        left = int((~kept).sum())
        self.notes.append(
            f"{left:,} row{'s' * (left > 1)} without prices of {self.names['close']} left out"
        )
        self.rows = np.flatnonzero(kept) if self.rows is None else self.rows[kept]
        return {part: column[kept] for part, column in values.items()}, time[kept]

    # --- values --------------------------------------------------------------------------------

    def _values(self, choice: Choice, taken: dict[int, Any]) -> dict[str, Floats]:
        parts = {part: ats for part, ats in choice.parts.items() if part != "time"}
        first = {part: ats[0] for part, ats in parts.items()}
        found = self._numbers({part: taken[at] for part, at in first.items()}, first)
        for part, ats in parts.items():
            at = ats[0]
            for other in ats[1:]:
                if part in choice.fixed or _has_values(found[part]):
                    break
                column = self._numbers({part: taken[other]}, {part: other})[part]
                if _has_values(column):
                    found[part], at = column, other
            self.names[part] = self._name(at)
            if part not in ("close", *choice.fixed) and np.isnan(found[part]).all():
                self.notes.append(f"{self._name(at)} has no values and was left out")
                del found[part], self.names[part]
        self._scale_to_adjusted(choice, taken, found)
        return found

    def _numbers(self, columns: dict[str, Any], ats: dict[str, int]) -> dict[str, Floats]:
        names = {part: self.table.name(at) if not self.table.bare else part
                 for part, at in ats.items()}  # fmt: skip
        names = {part: name or part for part, name in names.items()}
        return numbers(columns, names, self.notes, semicolons=self.table.semicolons)

    def _name(self, at: int) -> str:
        if self.table.bare:
            return f"column {at + 1}"
        name = self.table.name(at) or ("the first column" if self.table.sample else "the index")
        return name if name.isprintable() and len(name) <= 50 else shown(name)

    def _scale_to_adjusted(
        self, choice: Choice, taken: dict[int, Any], found: dict[str, Floats]
    ) -> None:
        """Scale open, high and low as the close that the user chose was adjusted."""
        ats = choice.parts["close"]
        if "close" not in choice.fixed or plain(self.names["close"].split(" (")[0]) not in ADJUSTED:
            return
        raw_at = next((at for at in ats[1:] if plain(self._name(at)) not in ADJUSTED), None)
        parts = [part for part in ("open", "high", "low")
                 if part in found and part not in choice.fixed]  # fmt: skip
        if raw_at is None or not parts:
            return
        raw = self._numbers({"close": taken[raw_at]}, {"close": raw_at})["close"]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = found["close"] / raw
        for part in parts:
            found[part] = found[part] * factor
        self.notes.append(
            f"{', '.join(parts)} scaled by {self.names['close']} / {self._name(raw_at)}"
        )

    # --- time ----------------------------------------------------------------------------------

    def _times(self, choice: Choice, taken: dict[int, Any]) -> NDArray[np.int64]:
        ats = choice.parts["time"]
        names = [self._name(at) if not self.table.bare else "time" for at in ats]
        names = ["time" if not self.table.name(at) else name
                 for at, name in zip(ats, names, strict=True)]  # fmt: skip
        columns = [taken[at] for at in ats]
        pair = self.table.bare or "time" in choice.fixed or is_pair(names)
        if len(ats) > 1 and not (pair and is_clock(columns[1])):
            if "time" not in choice.fixed:
                refuse_ambiguous("time", names)
            ats, columns = ats[:1], columns[:1]
        if len(ats) > 2:
            refuse_ambiguous("time", names)
        self.names["time"] = " and ".join(self._name(at) for at in ats)
        if len(ats) == 1:
            return times(columns[0], names[0], self.notes)
        return join_times(columns[0], columns[1], (names[0], names[1]), self.notes)

    # --- checks --------------------------------------------------------------------------------

    def _check(self, values: dict[str, Floats]) -> None:
        for part in PRICES:
            if part in values:
                soundness.check_price(part, values[part])
        if "volume" in values:
            soundness.check_volume(values["volume"])
        if "high" in values and "low" in values:
            soundness.check_range(values["high"], values["low"])
        adjusted = plain(self.names["close"]) in ADJUSTED
        for part in ("high", "low"):
            if part in values:
                soundness.check_holds_close(
                    part, values[part], values["close"], self.names["close"], adjusted=adjusted
                )

    def _check_order(self, time: NDArray[np.int64], several: Sequence[str]) -> None:
        if several and not (np.diff(time) > 0).all():
            refuse_several(several)
        if several:
            self.notes.append(f"{len(several):,} instruments, one after another, taken as one")
        soundness.check_order(time)

    def _columns_taken(self, choice: Choice) -> str:
        """Say in one line which columns were taken."""
        listed = [f"{part} from {self.names[part]}" for part in ("time", *PRICES, "volume")
                  if part in self.names]  # fmt: skip
        absent = [part for part in ("open", "high", "low") if part not in self.names]
        if absent:
            listed.append(f"{', '.join(absent)} = close")
        if "volume" not in self.names:
            listed.append("volume = 0")
        others = [self._name(at) for at in choice.parts["close"]
                  if self._name(at) != self.names["close"]]  # fmt: skip
        if others and plain(others[-1]) in ADJUSTED:
            listed.append(f"not from {others[-1]}")
        return f"columns: {', '.join(listed)}"


def _has_values(column: Floats) -> bool:
    return bool(np.isfinite(column).any() and np.nan_to_num(column).any())


def _some_rows(column: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(column, np.ndarray):
        return column[rows]
    if hasattr(column, "iloc"):
        return column.iloc[rows]
    if hasattr(column, "take"):
        return column.take(rows) if not hasattr(column, "null_count") else _take(column, rows)
    return [column[row] for row in rows.tolist()]


def _take(column: Any, rows: NDArray[np.int64]) -> Any:
    from supervisor.market.arrow import to_arrow

    return column.take(to_arrow(rows))
