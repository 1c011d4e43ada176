"""Which device the worker of each slot computes on, when devices are lost. Pure bookkeeping.

A worker's device stays its slot's while it works. A lost one is not used again in the run: the
slot gets another that is in no other slot's use, or retires.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

CRASHES = 3
"""Deaths of workers on a device in a row, with nothing finished there in between, after which
the device is taken for lost."""


class Devices:
    """The devices of a run's workers.

    Parameters
    ----------
    devices : sequence of str
        The device of each slot; empty: they all compute on the CPU.
    spares : sequence of str
        Devices in no slot's use.
    even : bool
        Whether all combinations run the same code, so that a crash is the device's doing and
        not one combination's.
    """

    def __init__(
        self, devices: Sequence[str], spares: Sequence[str] = (), *, even: bool = True
    ) -> None:
        self._of = dict(enumerate(devices))
        self._known = tuple(dict.fromkeys([*devices, *spares]))
        self._even = even
        self._crashes: Counter[str] = Counter()
        self.in_use = bool(devices)
        """Whether the workers compute on devices."""
        self.lost: dict[str, str] = {}
        """Lost devices, and why."""

    def of(self, slot: int) -> str:
        """Return the device of a slot; empty: the CPU."""
        return self._of.get(slot, "")

    def lose(self, device: str, why: str) -> bool:
        """Take a device out of use; return whether it was in use until now."""
        if device in self.lost:
            return False
        self.lost[device] = why
        return True

    def worked(self, device: str) -> None:
        """Note that a worker has finished something on a device: it is no broken one."""
        self._crashes[device] = 0

    def crashed(self, device: str, *, ready: bool) -> bool:
        """Note that a worker died on a device by itself; return whether that is to blame.

        Parameters
        ----------
        device : str
            The worker's device.
        ready : bool
            Whether it had begun to work. A combination of a user's function may be what kills
            its worker, which the search for it finds out; before any has begun, none is.
        """
        if not ready or self._even:
            self._crashes[device] += 1
        return self._crashes[device] >= CRASHES

    def next_for(self, slot: int) -> str | None:
        """Return the device for the next worker of a slot; None: there is none, it retires."""
        if not self.in_use or self._of.get(slot, "") not in ("", *self.lost):
            return self.of(slot)
        taken = {device for other, device in self._of.items() if other != slot}
        for device in self._known:
            if device not in self.lost and device not in taken:
                self._of[slot] = device
                return device
        self._of.pop(slot, None)
        return None

    def give_up(self) -> None:
        """Let all slots compute on the CPU from now on."""
        self._of.clear()
        self.in_use = False
