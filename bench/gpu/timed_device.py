"""A device that notes when its kernels run, by its own clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class TimedDevice:
    """Passes everything on to a device of the CUDA backtests, with events around launches.

    Parameters
    ----------
    device : Device
        A :class:`workers.cupy_backtest.cuda_device.CupyDevice`.
    """

    def __init__(self, device: Any) -> None:
        import cupy

        self._device = device
        self._event: Any = cupy.cuda.Event
        self._elapsed: Any = cupy.cuda.get_elapsed_time
        self._launched: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def launch(self, kernel: str, grid: Any, arguments: Any, stream: Any) -> None:
        """Queue a kernel between two events."""
        events = self._event(), self._event()
        events[0].record(stream)
        self._device.launch(kernel, grid, arguments, stream)
        events[1].record(stream)
        self._launched.append(events)

    def taken_ms(self) -> float:
        """Return how long kernels ran since the last call, in ms; overlaps count once."""
        if not self._launched:
            return 0.0
        for _, ended in self._launched:
            ended.synchronize()
        origin = self._launched[0][0]
        spans = [
            (float(self._elapsed(origin, begun)), float(self._elapsed(origin, ended)))
            for begun, ended in self._launched
        ]
        self._launched.clear()
        return covered(spans)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length that intervals cover together.

    Examples
    --------
    >>> covered([(0.0, 2.0), (5.0, 6.0), (1.0, 3.0)])
    4.0
    """
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
