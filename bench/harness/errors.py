"""What can go wrong in a measurement."""

from __future__ import annotations

from supervisor.errors import AllstopError


class NotMeasuredError(AllstopError):
    """One row cannot be measured here; the others are, and the table gives the reason."""
