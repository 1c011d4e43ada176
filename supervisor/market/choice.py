"""Which column plays which part: by its name, by what the user says, or by its values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from supervisor.market.asked import Asked
from supervisor.market.bare import numbers_in, recognise
from supervisor.market.columns import BadCell, shown
from supervisor.market.names import DATES, ROLES, SYMBOLS, plain, prefixed, roles_of
from supervisor.market.table import Table


@dataclass(slots=True)
class Choice:
    """Columns that may play each part, best first; and those that were decided for.

    Attributes
    ----------
    parts : dict of str to list of int
        Positions by part. Of ``time`` there may be two, which are joined, or of which the
        first is taken: their values decide.
    symbol_at : int or None
        The column that says which instrument a row is of.
    symbol : str
        The instrument whose columns were taken, where others have their own.
    fixed : set of str
        Parts that the user has chosen.
    """

    parts: dict[str, list[int]] = field(default_factory=dict)
    symbol_at: int | None = None
    symbol: str = ""
    fixed: set[str] = field(default_factory=set)


def choose(table: Table, asked: Asked) -> Choice:
    """Find the columns by name.

    Raises
    ------
    BadCell
        If close or time is not found, or it is not clear which it is.
    """
    if asked.order:
        return _by_order(table, asked.order)
    if table.bare and not asked.chosen:
        return _recognised(table)
    choice = _by_name(table, asked)
    _take_chosen(table, asked, choice)
    if "time" not in choice.parts and table.index is not None:
        choice.parts["time"] = [table.index]
    for part in ("close", "time"):
        if not choice.parts.get(part):
            _refuse_missing(table, part)
    return choice


def _refuse_missing(table: Table, part: str) -> None:
    listed = ", ".join(shown(table.name(at)) for at in range(len(table.labels))[:20]) or "none"
    more = ", …" if len(table.labels) > 20 else ""
    free = [table.name(at) for at in _free(table, part)]
    fix = f"say which it is, as in --columns {part}={_quoted(free[0])}" if free else "add one"
    if part == "time" and not free:
        fix += ", as a column or as the index"
    raise BadCell(f"no {part} column among {listed}{more}: {fix}")


def _free(table: Table, part: str) -> list[int]:
    """Columns whose name says nothing; for a price those of numbers first, as far as seen."""
    free = [at for at in range(len(table.labels)) if not roles_of(table.name(at))]
    if part == "time" or not table.sample:
        return free
    return sorted(free, key=lambda at: numbers_in([row[at] for row in table.sample]) is None)


def _quoted(name: str) -> str:
    """Give a name as a shell takes it, cut where it is long."""
    return shlex.quote(name[:50])


# --- by position -------------------------------------------------------------------------------


def _by_order(table: Table, order: Sequence[str]) -> Choice:
    width = len(table.labels)
    if len(order) > width:
        raise BadCell(f"--columns names {len(order)} columns where there are {width}")
    choice = Choice(fixed=set(ROLES))
    for at, part in enumerate(order):
        if part == "symbol":
            choice.symbol_at = at
        elif part == "date":
            choice.parts.setdefault("time", []).insert(0, at)
        elif part != "-":
            choice.parts.setdefault(part, []).append(at)
    return choice


def _recognised(table: Table) -> Choice:
    found = recognise(table.sample)
    if found is None:
        listed = ", ".join(shown(label[0]) for label in table.labels[:8])
        more = ", …" if len(table.labels) > 8 else ""
        width = len(table.labels)
        names = (
            ["time", "close", "volume", "-"][: max(2, width)]
            if width < 5
            else ["time", "open", "high", "low", "close", "volume"][:width]
        )
        raise BadCell(
            f"no close column among {listed}{more}: the file has no header; "
            f"name its {width} columns in their order, as in --columns {','.join(names)}"
        )
    return Choice(parts=found.parts, symbol_at=found.symbol_at)


# --- by name -----------------------------------------------------------------------------------


def _by_name(table: Table, asked: Asked) -> Choice:
    choice = Choice(symbol_at=_symbol_column(table))
    wide = _wide(table)
    if wide:
        choice.symbol = _one_of(list(wide), asked.symbol)
        fields = wide[choice.symbol]
    else:
        fields = [
            (at, table.labels[at][0]) for at in range(len(table.labels)) if at != choice.symbol_at
        ]
    ranked: dict[str, list[tuple[int, int, str]]] = {}
    for at, name in fields:
        for part, rank in roles_of(name):
            ranked.setdefault(part, []).append((rank, at, name))
    for part, found in ranked.items():
        found.sort(key=lambda each: each[:2])
        if part not in asked.chosen:
            _refuse_same(part, found)
        choice.parts[part] = [at for _, at, _ in found]
    if "time" in ranked and "time" not in asked.chosen:
        best = [(at, name) for rank, at, name in ranked["time"] if rank == ranked["time"][0][0]]
        best.sort(key=lambda each: plain(each[1]) not in DATES)
        choice.parts["time"] = [at for at, _ in best]
    if choice.symbol:
        times = [at for at in range(len(table.labels)) if ("time", 0) in roles_of(_last(table, at))]
        index = [] if table.index is None else [table.index]
        choice.parts.setdefault("time", times[:1] or index)
    return choice


def _last(table: Table, at: int) -> str:
    return next((part for part in reversed(table.labels[at]) if part), "")


def _refuse_same(part: str, found: Sequence[tuple[int, int, str]]) -> None:
    """Refuse columns whose names are the same but for case and the like."""
    names: dict[str, str] = {}
    for _, at, name in found:
        if part != "time" and plain(name) in names:
            refuse_ambiguous(part, [names[plain(name)], name], at)
        names[plain(name)] = name


def refuse_ambiguous(part: str, names: Sequence[str], at: int = 0) -> None:
    """Say that several columns could play one part, and how to choose; the last is at `at`."""
    listed = " and ".join(shown(name) for name in names)
    raise BadCell(
        f"{listed} could each be the {part} column: rename or remove all but one, or say which "
        f"with --columns {part}={_quoted(names[-1]) if len(set(names)) > 1 else at + 1}"
    )


def _symbol_column(table: Table) -> int | None:
    keys = [plain(label[0]) if len(label) == 1 else "" for label in table.labels]
    return next((keys.index(name) for name in SYMBOLS if name in keys), None)


def _wide(table: Table) -> dict[str, list[tuple[int, str]]]:
    """Columns of each instrument, where each has its own: as (position, name) by symbol."""
    wide: dict[str, list[tuple[int, str]]] = {}
    for at, label in enumerate(table.labels):
        if at == table.index:
            continue
        if len(label) > 1 and any(label[1:]):
            found = _of_levels(label)
        elif any(len(each) > 1 for each in table.labels) or _has_close(table):
            found = None
        else:
            found = prefixed(label[0])
        if found is not None:
            wide.setdefault(found[1], []).append((at, found[0]))
    return {
        symbol: fields
        for symbol, fields in wide.items()
        if any(("close", rank) in roles_of(name) for _, name in fields for rank in range(7))
    }


def _of_levels(label: tuple[str, ...]) -> tuple[str, str] | None:
    for at, name in enumerate(label):
        roles = {part for part, _ in roles_of(name)} - {"time"}
        if roles:
            return name, " ".join(part for i, part in enumerate(label) if i != at and part)
    return None


def _has_close(table: Table) -> bool:
    return any(part == "close" for label in table.labels for part, _ in roles_of(label[0]))


def _one_of(symbols: Sequence[str], asked: str) -> str:
    if asked:
        for symbol in symbols:
            if symbol.casefold() == asked.casefold():
                return symbol
        raise BadCell(f"--symbol {shown(asked)} is not in it: {_listed(symbols)}")
    if len(symbols) > 1:
        refuse_several(symbols)
    return symbols[0]


def refuse_several(symbols: Sequence[str]) -> None:
    """Say that there are several instruments, and how to choose."""
    raise BadCell(
        f"holds {len(symbols):,} instruments, {_listed(symbols)}: choose one with --symbol "
        f"{_quoted(symbols[0])}"
    )


def _listed(symbols: Sequence[str]) -> str:
    return ", ".join(symbols[:6]) + (", …" if len(symbols) > 6 else "")


# --- by the user -------------------------------------------------------------------------------


def _take_chosen(table: Table, asked: Asked, choice: Choice) -> None:
    for part, name in asked.chosen.items():
        ats = _positions(table, part, name)
        if part == "symbol":
            choice.symbol_at = ats[0]
        elif part == "date":
            choice.parts["time"] = ats + [at for at in choice.parts.get("time", []) if at != ats[0]]
            choice.fixed.add("time")
        else:
            others = [] if part == "time" else choice.parts.get(part, [])
            choice.parts[part] = ats + [at for at in others if at not in ats]
            choice.fixed.add(part)
    if {"date", "time"} <= set(asked.chosen):
        choice.parts["time"] = [*_positions(table, "date", asked.chosen["date"]),
                                *_positions(table, "time", asked.chosen["time"])]  # fmt: skip


def _positions(table: Table, part: str, name: str) -> list[int]:
    """Find a column by its name as it is written, without its form, or by its number from 1."""
    names = [table.name(at) for at in range(len(table.labels))]
    for same in (
        [at for at, known in enumerate(names) if known == name],
        [at for at, known in enumerate(names) if plain(known) == plain(name)],
    ):
        if same and not table.bare:
            return same[:1]
    if part == "time" and "+" in name:
        return [at for piece in name.split("+") for at in _positions(table, part, piece.strip())]
    if name.isascii() and name.isdigit() and 1 <= int(name[:9]) <= len(names):
        return [int(name) - 1]
    listed = ", ".join(shown(known) for known in names[:20]) or "none"
    raise BadCell(f"--columns {part}={name}: there is no such column, only {listed}")
