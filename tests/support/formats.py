"""Market data as its sources write it: three bars, the same in each; and the table of the docs.

``python -m tests.support.formats`` writes the table into ``docs/data.md``. What it says of how
each is read are the program's own words.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from supervisor.market.bars import Bars, load_bars

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
BEGIN, END = "<!-- formats: made by `make docs-data` -->", "<!-- end of formats -->"

OPEN = [100.5, 101.0, 102.5]
HIGH = [102.0, 103.5, 104.0]
LOW = [99.5, 100.0, 101.5]
CLOSE = [101.0, 102.5, 103.0]
VOLUME = [1000.0, 1500.0, 1200.0]
DAYS = np.array(["2024-01-16", "2024-01-17", "2024-01-18"], "M8[ns]")
MINUTES = np.array(["2024-01-16T14:30", "2024-01-16T14:31", "2024-01-16T14:32"], "M8[ns]")

Make = Callable[[Path], Any]


@dataclass(frozen=True)
class Format:
    """One kind of data.

    Attributes
    ----------
    source, what : str
        Who writes it, and what it looks like.
    make : callable
        Writes it into a directory and returns what is handed to ``load_bars``.
    time : ndarray of datetime64
        The right times.
    asked : dict
        Options that it needs.
    volume, prices : list of float, bool
        The right volumes; whether it has open, high and low.
    """

    source: str
    what: str
    make: Make
    time: NDArray[Any] = field(default_factory=lambda: DAYS)
    asked: dict[str, str] = field(default_factory=dict)
    volume: list[float] = field(default_factory=lambda: VOLUME)
    prices: bool = True

    def load(self, folder: Path) -> Bars:
        return load_bars(self.make(folder), **self.asked)


# --- how to write them -------------------------------------------------------------------------


def rows(
    line: str, time: Callable[[Any], str] = str, *, day: bool = True, newest_first: bool = False
) -> str:
    """Fill a line's {t} {o} {h} {l} {c} {v} for each bar."""
    stamps = [pd.Timestamp(stamp) for stamp in (DAYS if day else MINUTES)]
    lines = [
        line.format(t=time(stamp), o=o, h=h, l=low, c=c, v=int(v), i=stamp)
        for stamp, o, h, low, c, v in zip(stamps, OPEN, HIGH, LOW, CLOSE, VOLUME, strict=True)
    ]
    return "\n".join(lines[::-1] if newest_first else lines) + "\n"


def as_text(form: str) -> Callable[[Any], str]:
    return lambda stamp: str(stamp.strftime(form))


def epoch(per_s: int) -> Callable[[Any], str]:
    return lambda stamp: str(int(stamp.timestamp()) * per_s)


def text(
    content: str | bytes, name: str = "data.csv", pack: Callable[[bytes], bytes] = bytes
) -> Make:
    raw = content.encode() if isinstance(content, str) else content

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(pack(raw))
        return path

    return make


def zipped(raw: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("DAT_ASCII_EURUSD_M1_2024.csv", raw)
        archive.writestr("DAT_ASCII_EURUSD_M1_2024.txt", "gaps: none")
    return made.getvalue()


def zstd(raw: bytes) -> bytes:
    made = pa.BufferOutputStream()
    with pa.CompressedOutputStream(made, "zstd") as stream:
        stream.write(raw)
    return made.getvalue().to_pybytes()


def frame(names: str = "Open High Low Close Volume") -> pd.DataFrame:
    columns = dict(zip(names.split(), (OPEN, HIGH, LOW, CLOSE, VOLUME), strict=True))
    return pd.DataFrame(columns, index=pd.DatetimeIndex(DAYS, name="Date"))


def two_tickers(*, ticker_first: bool) -> pd.DataFrame:
    other = frame() * 2
    both = pd.concat({"AAPL": frame(), "MSFT": other}, axis=1, names=["Ticker", "Price"])
    return both if ticker_first else both.swaplevel(axis=1).sort_index(axis=1)


def csv_of(table: pd.DataFrame) -> str:
    return str(table.to_csv())


def stacked() -> pd.DataFrame:
    both = pd.concat({"AAPL": frame(), "MSFT": frame() * 2}, names=["Ticker", "Date"])
    return both.swaplevel().sort_index()


def written(table: pd.DataFrame, name: str) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        if name.endswith(".parquet"):
            table.to_parquet(path)
        else:
            table.reset_index().to_feather(path)
        return path

    return make


def arrow_date_and_time(_: Path) -> Any:
    stamps = [pd.Timestamp(stamp) for stamp in MINUTES]
    return pa.table(
        {
            "date": pa.array([stamp.date() for stamp in stamps]),
            "time": pa.array([stamp.time() for stamp in stamps]),
            "open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE, "volume": VOLUME,
        }
    )  # fmt: skip


_KLINE = "{t},{o},{h},{l},{c},{v},{t}9,151000.5,42,500,50500,0"
_DATABENTO = "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
_STOOQ = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
_MT5 = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
_YAHOO = "Date,Open,High,Low,Close,Adj Close,Volume\n"
_DECIMAL_COMMA = "Date;Open;High;Low;Close;Volume\n" + rows(
    "{t};{o};{h};{l};{c};{v}", as_text("%d.%m.%Y")
).replace(".5;", ",50;").replace(".0;", ",00;")
_POLYGON = "ticker,volume,open,close,high,low,window_start,transactions\n" + rows(
    "AA,{v},{o},{c},{h},{l},{t},7\nAAPL,9,1,1,1,1,{t},7", epoch(10**9), day=False
)

FORMATS = (
    # --- Yahoo
    Format("Yahoo Finance", "`.csv` of the web site, with `Adj Close`",
           text(_YAHOO + rows("{t},{o},{h},{l},{c},{c}9,{v}", as_text("%Y-%m-%d")))),
    Format("Yahoo Finance", "the same, adjusted close chosen: half of the raw one here",
           text(_YAHOO + "2024-01-16,201,204,199,202,101,1000\n"
                "2024-01-17,202,207,200,205,102.5,1500\n2024-01-18,205,208,203,206,103,1200\n"),
           asked={"columns": "close=Adj Close"}),
    Format("yfinance", "`download(…).to_csv()`, three header rows",
           text("Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n"
                + rows("{t},{c},{h},{l},{o},{v}", as_text("%Y-%m-%d")))),
    Format("yfinance", "the same of two tickers", text(csv_of(two_tickers(ticker_first=False))),
           asked={"symbol": "AAPL"}),
    Format("yfinance", "the same with `group_by=\"ticker\"`",
           text(csv_of(two_tickers(ticker_first=True))), asked={"symbol": "AAPL"}),
    Format("yfinance", "two header rows, without the levels' names",
           text(",AAPL,AAPL,AAPL,AAPL,AAPL\n,Open,High,Low,Close,Volume\n"
                + rows("{t},{o},{h},{l},{c},{v}", as_text("%Y-%m-%d")))),
    Format("yfinance", "`reset_index().to_csv()`",
           text(str(two_tickers(ticker_first=False).reset_index().to_csv())),
           asked={"symbol": "AAPL"}),
    Format("yfinance", "DataFrame of two tickers", lambda _: two_tickers(ticker_first=False),
           asked={"symbol": "aapl"}),
    Format("yfinance", "the same with `group_by=\"ticker\"`",
           lambda _: two_tickers(ticker_first=True), asked={"symbol": "AAPL"}),
    Format("yfinance", "DataFrame of one ticker, with its level",
           lambda _: two_tickers(ticker_first=False).loc[:, pd.IndexSlice[:, ["AAPL"]]]),
    Format("yfinance", "`.stack()`: date and ticker as index", lambda _: stacked(),
           asked={"symbol": "AAPL"}),
    Format("yfinance", "`Ticker.history()`, in New York's time",
           lambda _: frame().tz_localize("America/New_York"), DAYS + np.timedelta64(5, "h")),
    # --- stocks
    Format("Nasdaq", "`.csv` of the web site: `$`, newest first",
           text("Date,Close/Last,Volume,Open,High,Low\n" + rows(
               "{t},${c},{v},${o},${h},${l}", as_text("%m/%d/%Y"), newest_first=True))),
    Format("Investing.com", "`.csv`: `Price`, `1.2K`, newest first",
           text('"Date","Price","Open","High","Low","Vol.","Change %"\n' + rows(
               '"{t}","{c}","{o}","{h}","{l}","{v}","0.1%"', as_text("%m/%d/%Y"),
               newest_first=True).replace('"1200"', '"1.20K"'))),
    Format("Stooq", "`.csv` of the web site",
           text("Date,Open,High,Low,Close,Volume\n"
                + rows("{t},{o},{h},{l},{c},{v}", as_text("%Y-%m-%d")))),
    Format("Stooq, Finam", "`.txt`, minutes",
           text(_STOOQ + rows("AAPL.US,1,{t},{o},{h},{l},{c},{v},0", as_text("%Y%m%d,%H%M%S"),
                              day=False), "aapl.us.txt"), MINUTES),
    Format("Stooq", "`.txt`, days",
           text(_STOOQ + rows("AAPL.US,D,{t},000000,{o},{h},{l},{c},{v},0", as_text("%Y%m%d")),
                "aapl.us.txt")),
    Format("Alpha Vantage", "`.csv`, newest first",
           text("timestamp,open,high,low,close,volume\n" + rows(
               "{t},{o},{h},{l},{c},{v}", newest_first=True, day=False)), MINUTES),
    Format("Polygon, Massive", "flat file `.csv.gz`: ns, several tickers",
           text(_POLYGON, "2024-01-16.csv.gz", lambda raw: gzip.compress(raw, mtime=0)), MINUTES,
           asked={"symbol": "AA"}),
    Format("Databento", "`ohlcv-1m` `.csv`, ns",
           text(_DATABENTO + rows("{t},33,1,5482,{o},{h},{l},{c},{v},ESH4", epoch(10**9),
                                  day=False)), MINUTES),
    Format("Databento", "the same with `pretty_ts`, zstd",
           text(_DATABENTO + rows("{t},33,1,5482,{o},{h},{l},{c},{v},ESH4",
                                  as_text("%Y-%m-%dT%H:%M:%S.000000000Z"), day=False),
                "data.csv.zst", zstd), MINUTES),
    Format("Tiingo", "`.csv`",
           text("date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume\n"
                + rows(
               "{t},{c},{h},{l},{o},{v},1,1,1,1,1", as_text("%Y-%m-%d")))),
    Format("EOD Historical Data", "`.csv`",
           text("Date,Open,High,Low,Close,Adjusted_close,Volume\n"
                + rows("{t},{o},{h},{l},{c},1.5,{v}", as_text("%Y-%m-%d")))),
    Format("Alpaca", "DataFrame with `t o h l c v n vw`",
           lambda _: frame("o h l c v").rename_axis("t").reset_index().assign(n=3, vw=1.0)),
    Format("Interactive Brokers", "`.csv` of historical data",
           text("date,open,high,low,close,volume,average,barCount\n" + rows(
               "{t},{o},{h},{l},{c},{v},1,2", as_text("%Y%m%d  %H:%M:%S"), day=False)), MINUTES),
    Format("Bloomberg", "`.csv` with `PX_LAST`",
           text("Date,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,PX_VOLUME\n" + rows(
               "{t},{o},{h},{l},{c},{v}", as_text("%m/%d/%Y")))),
    Format("Nasdaq Data Link", "futures `.csv`: `Last` before `Settle`",
           text("Date,Open,High,Low,Last,Change,Settle,Volume,Previous Day Open Interest\n" + rows(
               "{t},{o},{h},{l},{c},,1.5,{v},9", as_text("%Y-%m-%d")))),
    Format("quantmod (R)", "`write.csv` of an xts object",
           text('"","AAPL.Open","AAPL.High","AAPL.Low","AAPL.Close","AAPL.Volume","AAPL.Adjusted"\n'
                + rows('"{t}",{o},{h},{l},{c},{v},1.5', as_text("%Y-%m-%d")))),
    Format("Kaggle", "`all_stocks_5yr.csv`: `Name` has many",
           text("date,open,high,low,close,volume,Name\n" + rows(
               "{t},{o},{h},{l},{c},{v},AAL\n{t},1,1,1,1,1,AAPL", as_text("%Y-%m-%d"))),
           asked={"symbol": "AAL"}),
    Format("NSE", "`.csv`: `02-Jan-2024`, thousands",
           text('Date ,Open ,High ,Low ,Close ,Volume \n' + rows(
               '{t},"{o}","{h}","{l}","{c}","{v}"', as_text("%d-%b-%Y"))
               .replace('"1000"', '"1,000"').replace('"1500"', '"1,500"')
               .replace('"1200"', '"1,200"'))),
    # --- foreign exchange
    Format("HistData", "ASCII M1 in its `.zip`, no header",
           text(rows("{t};{o};{h};{l};{c};{v}", as_text("%Y%m%d %H%M%S"), day=False),
                "HISTDATA_COM_ASCII.zip", zipped), MINUTES),
    Format("HistData, MetaTrader 4", "`.csv`, no header",
           text(rows("{t},{o},{h},{l},{c},{v}", as_text("%Y.%m.%d,%H:%M"), day=False)), MINUTES),
    Format("MetaTrader 5", "export of minutes, `<VOL>` 0",
           text(_MT5 + rows("{t}\t{o}\t{h}\t{l}\t{c}\t{v}\t0\t2", as_text("%Y.%m.%d\t%H:%M:%S"),
                            day=False)), MINUTES),
    Format("MetaTrader 5", "export of days",
           text(_MT5.replace("<TIME>\t", "")
                + rows("{t}\t{o}\t{h}\t{l}\t{c}\t9\t{v}\t2", as_text("%Y.%m.%d")))),
    Format("Dukascopy", "`.csv`, `Gmt time`",
           text("Gmt time,Open,High,Low,Close,Volume\n" + rows(
               "{t},{o},{h},{l},{c},{v}", as_text("%d.%m.%Y %H:%M:%S.000"), day=False)), MINUTES),
    Format("Dukascopy", "`.csv`, `Local time` with its offset",
           text("Local time,Open,High,Low,Close,Volume\n" + rows(
               "{t},{o},{h},{l},{c},{v}", as_text("%d.%m.%Y %H:%M:%S.000 GMT+0000"), day=False)),
           MINUTES),
    Format("FXCM", "bid and ask columns",
           text("DateTime,BidOpen,BidHigh,BidLow,BidClose,AskOpen,AskHigh,AskLow,AskClose,Volume\n"
                + rows("{t},{o},{h},{l},{c},9,9,9,9,{v}", as_text("%m/%d/%Y %H:%M"), day=False)),
           MINUTES),
    # --- crypto
    Format("Binance", "klines, no header, ms", text(rows(_KLINE, epoch(1000), day=False)), MINUTES),
    Format("Binance", "klines since 2025, no header, µs, in their `.zip`",
           text(rows(_KLINE, epoch(10**6), day=False), "BTCUSDT-1m-2025-01.zip", zipped), MINUTES),
    Format("Binance", "klines of the API as a DataFrame, without names",
           lambda _: pd.DataFrame([line.split(",") for line in rows(
               _KLINE, epoch(1000), day=False).splitlines()]), MINUTES),
    Format("ccxt", "`fetch_ohlcv` as a NumPy array",
           lambda _: np.array([[float(cell) for cell in line.split(",")] for line in rows(
               "{t},{o},{h},{l},{c},{v}", epoch(1000), day=False).splitlines()]), MINUTES),
    Format("Kraken", "OHLCVT, no header",
           text(rows("{t},{o},{h},{l},{c},{v},17", epoch(1), day=False)), MINUTES),
    Format("Coinbase", "candles, no header: low, high, open, close",
           text(rows("{t},{l},{h},{o},{c},{v}", epoch(1), day=False, newest_first=True)), MINUTES),
    Format("Bitfinex", "candles, no header: open, close, high, low",
           text(rows("{t},{o},{c},{h},{l},{v}", epoch(1000), day=False, newest_first=True)),
           MINUTES),
    Format("CryptoDataDownload", "`.csv` with an address above, `Volume BTC`, newest first",
           text("https://www.CryptoDataDownload.com\n"
                "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD\n" + rows(
                    "1,{t},BTC/USD,{o},{h},{l},{c},{v},999", newest_first=True, day=False)),
           MINUTES),
    Format("CoinMarketCap", "`.csv` with semicolons",
           text("timeOpen;timeClose;timeHigh;timeLow;name;open;high;low;close;volume;marketCap;"
                "timestamp\n" + rows('"x";"x";"x";"x";"1";{o};{h};{l};{c};{v};5;"{t}"',
                                     as_text("%Y-%m-%dT%H:%M:%S.000Z"), newest_first=True))),
    Format("TradingView", "export with epochs",
           text("time,open,high,low,close,Volume\n"
                + rows("{t},{o},{h},{l},{c},{v}", epoch(1), day=False)), MINUTES),
    # --- spreadsheets and one's own
    Format("Excel in Europe", "`sep=;`, decimal commas", text("sep=;\n" + _DECIMAL_COMMA)),
    Format("one's own", "`202401161430` as numbers",
           text("timestamp_utc,open,high,low,close,volume\n" + rows(
               "{t},{o},{h},{l},{c},{v}", as_text("%Y%m%d%H%M"), day=False)), MINUTES),
    Format("one's own", "`trade_date` and names of one's own",
           text("trade_date,first,top,bottom,Settle,pieces\n" + rows(
               "{t},{o},{h},{l},{c},{v}", as_text("%Y%m%d"))),
           asked={"columns": "open=first,high=top,low=bottom,volume=pieces"}),
    Format("one's own", "no header, an order of its own",
           text(rows("{v} {t} {c} {l} {h} {o} x".replace(" ", ","), as_text("%Y-%m-%d"))),
           asked={"columns": "volume,time,close,low,high,open,-"}),
    Format("pandas", "Series of closes", lambda _: frame()["Close"], volume=[0.0] * 3,
           prices=False),
    Format("pandas", "`.parquet`, time as index", written(frame(), "data.parquet")),
    Format("pandas", "`.feather`", written(frame(), "data.feather")),
    Format("pandas", "`to_csv(\"….csv.xz\")`", text(csv_of(frame()), "data.csv.xz", lzma.compress)),
    Format("pandas", "`to_csv(\"….csv.bz2\")`",
           text(csv_of(frame()), "data.csv.bz2", bz2.compress)),
    Format("Arrow", "table with date and time of day", arrow_date_and_time, MINUTES),
)  # fmt: skip


# --- the docs ----------------------------------------------------------------------------------


def table() -> str:
    """Say of each format how it is read, in the program's own words."""
    lines = ["| source | what | how it is read |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for each in FORMATS:
            words = "; ".join(each.load(Path(folder)).notes).removeprefix("columns: ")
            asked = [f'`--{name} "{value}"`' for name, value in each.asked.items()]
            what = each.what + (f", with {' '.join(asked)}" if asked else "")
            lines.append(f"| {each.source} | {what} | {words.replace('<', '&lt;')} |")
    return "\n".join(lines)


def page_with(made: str) -> str:
    """The page with a table in its place."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(table()))
