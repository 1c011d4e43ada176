"""What can go wrong in a measurement."""

from __future__ import annotations

from supervisor.errors import FullstopError


class NotMeasuredError(FullstopError):
    """One row cannot be measured here; the others go on, and the table says why."""
