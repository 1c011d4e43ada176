"""A function and the values of its grid that are known to it alone, such as an enum's members.

Both travel in one pickle. So the function gets the very members that it compares with, also
where their class was defined in a notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from supervisor.rows.values import Opaque


class WithValues:
    """A strategy that is called with its own values in place of their labels.

    Parameters
    ----------
    function : callable
        The user's function.
    values : mapping of str to mapping of str to object
        By parameter and label.
    """

    def __init__(
        self, function: Callable[..., Any], values: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.function = function
        self.values = values

    def __call__(self, bars: Any, params: Mapping[str, Any], stop: Any) -> Any:
        """Call the function."""
        given = {
            name: self.values[name][value.label] if isinstance(value, Opaque) else value
            for name, value in params.items()
        }
        return self.function(bars, given, stop)
