"""CSV files: header, cells and rows, by position."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.errors import DataError
from supervisor.market.columns import MISSING_WORDS, BadCell
from supervisor.market.header import Header, read_header
from supervisor.market.table import Table

_MAGICS = (
    (b"PAR1", "is a Parquet file: name it .parquet"),
    (b"ARROW1", "is a Feather file: name it .feather"),
    (b"\x1f\x8b", "is gzip-compressed: name it .csv.gz"),
    (b"BZh", "is bzip2-compressed: name it .csv.bz2"),
    (b"\xfd7zXZ\0", "is xz-compressed: name it .csv.xz"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed: name it .csv.zst"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet: name it .zip, or save it as CSV"),
    (b"\xff\xfe", "is UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16 text: save it as UTF-8"),
)
_HEAD_BYTES = 2**20
_HEAD_LINES = 64
_MAX_COLUMNS = 10_000


@dataclass(frozen=True, slots=True)
class Csv:
    """A CSV file's text behind its header.

    Attributes
    ----------
    raw : bytes
        The whole file.
    body : int
        Offset of the first byte after the header.
    width : int
        Number of columns.
    """

    source: str
    raw: bytes
    body: int
    delimiter: str
    width: int

    def row(self, at: int) -> int:
        """Row ``at`` of the data as an editor shows it: from 1, header and empty lines counted."""
        line = self.raw[: self.body].count(b"\n")
        for text in self.raw[self.body :].splitlines():
            line += 1
            at -= bool(text)
            if at < 0:
                return line
        return line


def csv_table(raw: bytes, source: str) -> Table:
    """Find a CSV file's header and columns.

    Raises
    ------
    DataError
        If it is no text, or has no lines.
    """
    for magic, fix in _MAGICS:
        if raw.startswith(magic):
            raise DataError(fix, path=source)
    if b"\0" in raw[:4096]:
        raise DataError("is not text: a CSV file is needed", path=source)
    lines, ends = _head(raw, source)
    delimiter = _delimiter(lines)
    try:
        rows = [_cells(line, delimiter) for line in lines]
    except csv.Error as error:
        raise DataError(f"the header is not CSV: {error}", path=source, row=1) from None
    header = read_header(rows)
    width = len(header.labels)
    if width > _MAX_COLUMNS:
        raise DataError(f"has {width:,} columns: give only those that are needed", path=source)
    text = Csv(source, raw, ends[header.lines - 1] if header.lines else 0, delimiter, width)
    return Table(
        source,
        header.labels,
        0 if not header.bare and not header.labels[0][-1] else None,
        lambda ats, numbers: _columns(text, ats, numbers),
        text.row,
        sample=_sample(header, rows),
        bare=header.bare,
        semicolons=delimiter == ";",
    )


def _sample(header: Header, rows: Sequence[Sequence[str]]) -> list[list[str]]:
    width = len(header.labels)
    return [list(row) for row in rows[header.lines :] if len(row) == width]


# --- the first lines ---------------------------------------------------------------------------


def _head(raw: bytes, source: str) -> tuple[list[str], list[int]]:
    """Decode the first lines that are not empty; with the offset of the byte after each."""
    lines: list[str] = []
    ends: list[int] = []
    at = line = 0
    while at < min(len(raw), _HEAD_BYTES) and len(lines) < _HEAD_LINES:
        end = raw.find(b"\n", at, at + _HEAD_BYTES) + 1 or min(len(raw), at + _HEAD_BYTES)
        line += 1
        if end - at >= _HEAD_BYTES:
            raise DataError("has a line of more than 1 MiB: it is no table", path=source, row=line)
        text = raw[at:end].removeprefix(b"\xef\xbb\xbf" if line == 1 else b"").strip(b"\r\n")
        at = end
        if not text.strip():
            continue
        try:
            lines.append(text.decode())
        except UnicodeDecodeError:
            if lines:
                break  # reading the body names the row
            raise DataError("is not UTF-8 text: save it as UTF-8", path=source, row=line) from None
        ends.append(at)
    if not lines:
        raise DataError("is empty", path=source)
    return lines, ends


def _delimiter(lines: Sequence[str]) -> str:
    """Find what parts the cells: what is there equally often in each line, rarer signs first."""
    sample = lines[:20]
    for sign in (";", "\t", "|"):
        counts = {line.count(sign) for line in sample[-10:]}
        if len(counts) == 1 and min(counts) > 0 and sample[0].count(sign):
            return sign
    return max(",;\t|", key=sample[0].count if len(sample) == 1 else _most_in(sample))


def _most_in(lines: Sequence[str]) -> Callable[[str], int]:
    # a first line may be a title, without any
    best = max(lines[:5], key=lambda line: sum(map(line.count, ",;\t|")))
    first = lines[0] if any(sign in lines[0] for sign in ",;\t|") else best
    return first.count


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


# --- the rest ----------------------------------------------------------------------------------


def _columns(text: Csv, ats: Sequence[int], numbers: Collection[int]) -> Sequence[Any]:
    import pyarrow as pa

    if not text.raw[text.body :].strip():
        raise BadCell("has a header but no rows: at least 2 bars are needed")
    try:
        table = _parse(text, ats, numbers)
    except pa.ArrowException:
        # a cell is wrong: read it again as text, slower, to find the row
        table = _parse_as_text(text, ats)
    return [table.column(f"{at}") for at in ats]


def _parse(text: Csv, ats: Sequence[int], numbers: Collection[int], **how: Any) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pc

    body = memoryview(text.raw)[text.body :]
    kinds = {f"{at}": pa.float64() if at in numbers else pa.string() for at in ats}
    return pc.read_csv(
        pa.BufferReader(pa.py_buffer(body)),
        # by position: names may repeat, be empty or hold anything
        pc.ReadOptions(
            column_names=[f"{at}" for at in range(text.width)],
            use_threads=not how,  # with threads Arrow does not count the rows
        ),
        pc.ParseOptions(delimiter=text.delimiter, **how),
        pc.ConvertOptions(
            include_columns=list(kinds), column_types=kinds, null_values=list(MISSING_WORDS)
        ),
    )


def _parse_as_text(text: Csv, ats: Sequence[int]) -> Any:
    import pyarrow as pa

    try:
        text.raw.decode()
    except UnicodeDecodeError as error:
        line = text.raw.count(b"\n", 0, error.start) + 1
        raise DataError("is not UTF-8 text: save it as UTF-8", path=text.source, row=line) from None
    torn: list[Any] = []

    def keep(row: Any) -> str:
        torn.append(row)
        return "error"

    try:
        return _parse(text, ats, (), invalid_row_handler=keep)
    except pa.ArrowException as error:
        if not torn or torn[0].number is None:
            why = str(error).partition("\n")[0][:120]
            raise DataError(f"cannot be read as CSV: {why}", path=text.source) from None
    row = torn[0]
    raise BadCell(
        f"has {row.actual_columns} columns where the header has {text.width}", row.number - 1
    )
