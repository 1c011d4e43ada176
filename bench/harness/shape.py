"""Sizes of the measurements: all settings in one place."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Self

from supervisor.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the measurements; the defaults are those of the published figures.

    Attributes
    ----------
    stop_rounds, relaunch_rounds, poll_rounds, sweep_rounds, cancel_rounds : int
        Interleaved rounds of each measurement.
    workers : int
        Processes that hold memory in ``stop``.
    hold_mb : int
        Private memory that each of them holds, in MB (2**20 bytes).
    grace_s, terminate_s : float
        Timers of the escalation in ``stop``.
    cores : int
        Workers in ``sweep``.
    bars : int
        Bars of the embedded example in ``relaunch``, ``poll`` and ``sweep``.
    combos : int
        Combinations in ``sweep``; rounded to a square.
    compute_s : float
        Computing time on which supervision's share is measured.
    peers : bool
        Whether other libraries are measured too.
    peer_combos : int
        Combinations given to a peer.
    big_combos, big_bars : int
        Size of the grid on which memory must not depend, and its bars.
    big_s : float
        Time after which that run is stopped, unless it has ended.
    polls : int
        Python polls per sample.
    shots : int
        Stops of a spinning kernel, to measure the delay until it sees the flag.
    kernel_shots : int
        The same with a built-in strategy's kernel.
    cancel_tasks, cancel_jobs : int
        Tasks of the array, and single jobs, in ``cancel``.
    """

    stop_rounds: int = 20
    relaunch_rounds: int = 20
    poll_rounds: int = 40
    sweep_rounds: int = 5
    cancel_rounds: int = 1
    workers: int = 2
    hold_mb: int = 2048
    grace_s: float = 2.0
    terminate_s: float = 1.0
    cores: int = dataclasses.field(default_factory=lambda: len(os.sched_getaffinity(0)))
    bars: int = 525_600
    combos: int = 10_000
    compute_s: float = 15.0
    peers: bool = True
    peer_combos: int = 10
    big_combos: int = 10_000_000
    big_bars: int = 2_000
    big_s: float = 3.0
    polls: int = 200_000
    shots: int = 2_000
    kernel_shots: int = 200
    cancel_tasks: int = 10_000
    cancel_jobs: int = 1_000

    @classmethod
    def quick(cls) -> Self:
        """Sizes for a check of all measurements in less than a minute, without figures to quote."""
        return cls(
            stop_rounds=1,
            relaunch_rounds=2,
            poll_rounds=3,
            sweep_rounds=1,
            hold_mb=64,
            grace_s=0.3,
            terminate_s=0.2,
            bars=50_000,
            combos=2_500,
            compute_s=0.5,
            peer_combos=4,
            big_s=0.5,
            polls=20_000,
            shots=200,
            kernel_shots=20,
            cancel_tasks=100,
            cancel_jobs=5,
        )

    def with_rounds(self, rounds: int | None) -> Self:
        """Set the rounds of every measurement, where given."""
        if rounds is None:
            return self
        names = [item.name for item in dataclasses.fields(self) if item.name.endswith("_rounds")]
        changes: dict[str, Any] = dict.fromkeys(names, rounds)
        return dataclasses.replace(self, **changes)

    def with_settings(self, settings: list[str]) -> Self:
        """Apply settings written as ``name=value``.

        Raises
        ------
        ConfigError
            If a name is unknown or a value is no positive number.
        """
        sizes = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        kinds: dict[str, Any] = {
            name: type(size) for name, size in sizes.items() if not isinstance(size, bool)
        }
        changes: dict[str, Any] = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            if name not in kinds:
                raise ConfigError(f"unknown size {name!r}; there are {', '.join(kinds)}", key="set")
            try:
                value = kinds[name](text)
            except ValueError:
                value = 0
            if value <= 0:
                raise ConfigError(
                    f"{name} takes a positive {kinds[name].__name__}, not {text!r}", key="set"
                )
            changes[name] = value
        return dataclasses.replace(self, **changes)
