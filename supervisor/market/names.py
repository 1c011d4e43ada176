"""What people call open, high, low, close, volume, time and the instrument."""

from __future__ import annotations

import re
from collections.abc import Sequence

Label = tuple[str, ...]
"""What a column is called: one name, or one for each level of a header."""

PRICES = ("open", "high", "low", "close")
ROLES = (*PRICES, "volume", "time")

NAMES: dict[str, tuple[frozenset[str], ...]] = {
    # best name first: a worse one counts only where no better one has values
    "open": (
        frozenset({"open", "o", "openprice", "openingprice", "pxopen"}),
        frozenset({"openbid", "bidopen", "openmid", "midopen", "bido", "mido"}),
    ),
    "high": (
        frozenset({"high", "h", "highprice", "pxhigh"}),
        frozenset({"highbid", "bidhigh", "highmid", "midhigh", "bidh", "midh"}),
    ),
    "low": (
        frozenset({"low", "l", "lowprice", "pxlow"}),
        frozenset({"lowbid", "bidlow", "lowmid", "midlow", "bidl", "midl"}),
    ),
    "close": (
        frozenset({"close", "c", "closeprice", "closingprice"}),
        frozenset({"closelast", "lastclose"}),
        frozenset({"last", "lastprice", "pxlast"}),
        frozenset({"price", "value"}),
        frozenset({"settle", "settlement", "settlementprice"}),
        frozenset({"closebid", "bidclose", "closemid", "midclose", "bidc", "midc"}),
        frozenset({"adjclose", "adjustedclose", "closeadj", "closeadjusted", "adjusted",
                   "adjprice", "adjustedprice"}),
    ),
    "volume": (
        frozenset({"volume", "vol", "v", "realvolume", "basevolume", "volumebase", "pxvolume",
                   "tradevolume", "sharevolume", "totalvolume", "volumetraded",
                   "volumefrom"}),
        frozenset(),  # with the name of what is counted, as in "Volume BTC"
        frozenset({"tickvolume", "tickvol", "tickcount"}),
        frozenset({"quotevolume", "volumequote", "quoteassetvolume", "volumeto"}),
    ),
    "time": (
        frozenset({
            "time", "date", "datetime", "timestamp", "opentime", "gmttime", "utctime", "localtime",
            "tsevent", "windowstart", "timestamputc", "datetimeutc", "timeutc", "dateutc", "utc",
            "tradedate", "tradingdate", "tradingday", "dtyyyymmdd", "timeperiodstart",
            "starttime", "startdate", "bartime", "candletime", "candlebegintime", "begin", "start",
            "day", "caldt", "quotedate", "pricedate", "eventtime", "timestampms", "timestampns",
            "timestamps", "opentimems", "opentimestamp", "opendate", "dateandtime", "periodstart",
            "intervalstart", "timestart",
        }),
        frozenset({"unix", "unixtime", "unixtimestamp", "epoch", "epochtime", "ts", "t", "dt",
                   "mts", "index", "timeopen", "unnamed:0"}),
        frozenset({"closetime", "timeclose", "endtime", "timeperiodend", "tsrecv"}),
    ),
}  # fmt: skip

DATES = ("date", "dtyyyymmdd", "tradedate", "tradingdate", "tradingday", "day", "dateutc",
         "quotedate", "utcdate")  # fmt: skip
CLOCKS = ("time", "timeutc", "utctime", "gmttime", "localtime", "bartime", "starttime")
"""What a column of dates is called beside one of times of day, and that one."""

SYMBOLS = (
    "symbol", "ticker", "tic", "instrument", "pair", "asset", "coin", "secid", "isin", "sym",
    "ric", "market", "name", "code", "instrumentid", "permno",
)  # fmt: skip
"""Columns that say which instrument a row is of, best first."""

LEVELS = frozenset({
    "price", "prices", "ticker", "tickers", "symbol", "symbols", "attributes", "field", "fields",
    "date", "datetime", "timestamp", "time", "index",
})  # fmt: skip
"""What the levels of a header of several lines are called."""

ADJUSTED = NAMES["close"][-1]
_MONEY = frozenset({"usd", "usdt", "usdc", "busd", "fdusd", "tusd", "dai", "eur", "gbp", "jpy",
                    "krw", "try", "aud", "cad", "chf", "brl", "quote"})  # fmt: skip
"""What things are paid in: a volume in it is the quote's, not the thing's own."""
_SPLIT = re.compile(r"[\s_\-.:|/]+")


def plain(name: object) -> str:
    """Strip a column's name of what varies: case, blanks, <brackets>, ``1.`` numbering, units."""
    text = str(name)[:200].lstrip("\ufeff").strip().lower().strip("<>\"'* ")
    text = re.sub(r"^\d+\.\s+|\([^()]*\)$|\[[^\[\]]*\]$", "", text)
    return re.sub(r"[\s_\-./]", "", text)


def levels(name: str) -> Label | None:
    """Take a name apart that pandas made of the levels of a header: ``('Close', 'AAPL')``."""
    if not (name.startswith("('") and name.endswith("')") and len(name) < 200):
        return None
    parts = tuple(part.strip().strip("'\"") for part in name[1:-1].split("', '"))
    return parts if len(parts) > 1 else None


def roles_of(name: str) -> list[tuple[str, int]]:
    """Return the parts that a column of this name may play, each with the name's rank."""
    key = plain(name)
    found = [
        (role, rank)
        for role, ranks in NAMES.items()
        for rank, names in enumerate(ranks)
        if key in names
    ]
    words = [word for word in _SPLIT.split(name.strip().lower()) if word]
    if not found and len(words) > 1 and words[0] in ("volume", "vol"):
        found.append(("volume", 3 if words[-1].strip("()") in _MONEY else 1))
    return found


def is_pair(names: Sequence[str]) -> bool:
    """Whether two columns are called as a date and a time of day: digits may be either."""
    return plain(names[0]) in DATES and plain(names[-1]) in CLOCKS


def is_known(name: str) -> bool:
    """Whether a name says what a column is."""
    return bool(roles_of(name)) or plain(name) in SYMBOLS


def prefixed(name: str) -> tuple[str, str] | None:
    """Take ``AAPL.Close`` or ``Close_AAPL`` apart into a part's name and a symbol."""
    pieces = _SPLIT.split(name.strip())
    for cut in range(1, len(pieces)):
        for field, symbol in (
            ("".join(pieces[cut:]), "_".join(pieces[:cut])),
            ("".join(pieces[:cut]), "_".join(pieces[cut:])),
        ):
            roles = {role for role, _ in roles_of(field)} - {"time"}
            if roles and symbol and not roles_of(symbol):
                return field, symbol
    return None
