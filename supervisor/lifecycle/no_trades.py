"""Why no combination of a sweep has traded, as far as the plan and the results tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError
from supervisor.records.plan import Plan, Source
from supervisor.rows.results import opened

_COLUMN = "trades"
_WINDOWS = {
    "sma_cross": "slow", "bollinger_reversion": "window", "rsi_reversion": "window",
    "donchian_breakout": "entry",
}  # fmt: skip
_HINTS = {
    "sma_cross": "the fast average was never above the slow one",
    "bollinger_reversion": "no close lay below a lower band: try a smaller width",
    "rsi_reversion": "no RSI fell below a lower level: try a higher one",
    "donchian_breakout": "no close lay above the highest high before it: are closes and highs of "
    "the same kind, both adjusted or both raw? Try shorter channels",
}


def none_traded(results: Path, plan: Plan) -> str:
    """Say that no combination has traded and why it may be; empty if one has.

    The statistics in the file's footer tell: no row is read.
    """
    if _COLUMN in plan.grid.names:
        return ""
    try:
        with opened(results) as file:
            most = _largest(file.metadata, file.schema_arrow)
    except (OSError, ConfigError):
        return ""  # whoever reads the results says so
    if most != 0:
        return ""
    return f"no combination traded: {_why(plan)}"


def _largest(metadata: Any, schema: Any) -> float | None:
    """The largest number of trades; None if it isn't known, or there are failed rows only."""
    import pyarrow as pa

    names: list[str] = schema.names
    if _COLUMN not in names:
        return None
    kind = schema.field(_COLUMN).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None  # a function may call a text or a time its trades
    found = []
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(names.index(_COLUMN))
        statistics = column.statistics
        if statistics is not None and statistics.has_min_max:
            found.append(float(statistics.max))
        elif statistics is None or statistics.null_count != column.num_values:
            return None
    return max(found, default=None)


def _why(plan: Plan) -> str:
    flat = next((note for note in plan.data_facts.notes if note.startswith("the close")), "")
    if flat:
        return flat
    if plan.source is not Source.BUILT_IN or plan.strategy not in _HINTS:
        return "the function has returned 0 trades for each"
    windows = plan.grid.axis(_WINDOWS[plan.strategy])
    if windows.min() >= plan.n_bars:
        return (
            f"the data has {plan.n_bars:,} bars and {_WINDOWS[plan.strategy]} is at least "
            f"{windows.min():,}: give shorter windows or more data"
        )
    if plan.strategy == "bollinger_reversion":
        widths = plan.grid.axis("width")
        if widths.min() ** 2 >= windows.max() - 1:
            return (
                "no close of a window lies more than √(window − 1) standard deviations from their "
                "average: give longer windows or a smaller width"
            )
    return _HINTS[plan.strategy]
