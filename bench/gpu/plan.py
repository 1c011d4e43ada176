"""The steps, in the order of their value: what time is short for is cut from the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import ConfigError

SUMMARY, TABLE = "summary.json", "table.md"
"""Files of a call beside those of the steps."""

BUNDLE, EXPECTED = Path("build/gpu-bundle"), "expected.npz"
"""Where the expected rows are looked for, if nothing else is said: see :mod:`bench.gpu.bundle`."""

TOTAL_S = 420.0
"""Limit of one call, in s: all steps together."""

LEAST_S = 5.0
"""A step is not begun when less time than this is left, in s."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes
    ----------
    name : str
        As ``--only`` takes it.
    module : str
        Where its ``measure`` is.
    file : str
        Name of the JSON file that it shares with related steps.
    limit_s : float
        Time after which it is ended.
    title : str
        What it shows.
    """

    name: str
    module: str
    file: str
    limit_s: float
    title: str


STEPS = (
    Step("facts", "facts", "facts.json", 25, "Driver, device, and what NVML's calls cost"),
    Step("flag", "flag", "flag.json", 75, "Stop flag: registration, time to a stop, cost of polls"),
    Step("kernels", "kernels", "kernels.json", 90, "CUDA backtests: rows and combinations/s"),
    Step("release", "release", "release.json", 110, "VRAM is back at its baseline"),
    Step("kills", "kills", "kills.json", 70, "Workers killed at random moments"),
    Step("torch", "tensors", "torch.json", 50, "PyTorch backtests: rows, rate, stop, memory"),
    Step("namespace", "namespace", "facts.json", 30, "Which processes NVML shows to whom"),
    Step("helpers", "helpers", "flag.json", 40, "numba.cuda's stop, compute-sanitizer"),
)
"""Six files; with the summary's two they are the eight that may come back from a machine."""


def choose(only: str, steps: Sequence[Step] = STEPS) -> tuple[Step, ...]:
    """Return the steps that are named, in the order of the table; all for an empty string.

    Parameters
    ----------
    only : str
        Names, separated by commas.
    steps : sequence of Step, optional
        The table.

    Raises
    ------
    ConfigError
        If a name is unknown.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = [step.name for step in steps]
    for name in names:
        if name not in known:
            raise ConfigError(f"no step {name!r}; there are {', '.join(known)}", key="only")
    return tuple(step for step in steps if not names or step.name in names)


def find(name: str) -> Step:
    """Return the step of this name; see :func:`choose`."""
    return choose(name)[0]


def limit_of(step: Step, left_s: float) -> float:
    """Return how long a step may take, in s; 0: it is not begun."""
    return min(step.limit_s, left_s) if left_s >= LEAST_S else 0.0
