"""Names of a row's columns, the same as rows come and in the results file."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from supervisor.errors import ConfigError

ERROR_COLUMN = "error"
"""Why a combination failed; there only if one did."""

_PREFIX = "result_"


def title_of(metric: str, parameters: Collection[str]) -> str:
    """Return the column of a metric: its name, or ``result_NAME`` where a parameter has that.

    No two metrics have the same column: one that is itself called ``result_NAME`` is then
    ``result_result_NAME``.
    """
    core = metric
    while core.startswith(_PREFIX) and core not in parameters and core != ERROR_COLUMN:
        core = core.removeprefix(_PREFIX)
    return _PREFIX + metric if core in parameters or core == ERROR_COLUMN else metric


def check_parameters(parameters: Iterable[str]) -> None:
    """Refuse names of parameters that a row needs for something else.

    Raises
    ------
    ConfigError
        Names the parameter.
    """
    names = list(parameters)
    for name in names:
        if name == ERROR_COLUMN:
            raise ConfigError(
                f"parameter {name!r}: results have a column of that name, which says why a "
                "combination failed: call the parameter something else",
                key="grid",
            )
        of_metric = name.removeprefix(_PREFIX)
        if of_metric != name and (of_metric in names or of_metric == ERROR_COLUMN):
            raise ConfigError(
                f"parameter {name!r}: a metric called {of_metric!r} gets that name in results: "
                "call the parameter something else",
                key="grid",
            )
