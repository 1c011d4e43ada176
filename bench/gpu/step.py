"""One step in a process of its own: ``python -m bench.gpu.step NAME OPTIONS``.

The options travel as JSON: a step is started by :mod:`bench.gpu.runner` only.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from bench.gpu import plan
from bench.gpu.record import StepRecord
from bench.gpu.sizes import Sizes
from supervisor.system import process


@dataclass(frozen=True, slots=True)
class Bench:
    """What a step is given.

    Attributes
    ----------
    record : StepRecord
        Where its findings go.
    sizes : Sizes
        How much to measure.
    expected : Path
        Rows computed on a CPU beforehand, see :mod:`bench.gpu.expected`.
    deadline : float
        ``time.monotonic()`` at which the step is ended from outside.
    """

    record: StepRecord
    sizes: Sizes
    expected: Path
    deadline: float

    def left_s(self, reserve_s: float = 3.0) -> float:
        """Return how long to go on at most, in s, so that ``reserve_s`` remains for the end."""
        return self.deadline - time.monotonic() - reserve_s


@dataclass(frozen=True, slots=True)
class Options:
    """What a step is started with.

    Attributes
    ----------
    out, expected : str
        Directory of the results; file of the expected rows.
    sizes : Sizes
        How much to measure.
    limit_s : float
        Time until it is ended.
    parent : int
        Pid of the process that started it, and with which it ends.
    """

    out: str
    expected: str
    sizes: Sizes
    limit_s: float
    parent: int

    def to_json(self) -> str:
        """Return it as an argument of the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild what :meth:`to_json` gave."""
        plain: Mapping[str, Any] = json.loads(text)
        sizes: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in plain["sizes"].items()
        }
        return cls(**{**plain, "sizes": Sizes(**sizes)})


def main(name: str, text: str) -> None:
    """Run one step; what it raises is its reason to have failed."""
    options = Options.from_json(text)
    process.die_with_parent(options.parent)
    process.become_subreaper()  # what a killed worker leaves is still below this step
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    step = plan.find(name)
    bench = Bench(
        StepRecord.resume(Path(options.out) / step.file, name),
        options.sizes,
        Path(options.expected),
        time.monotonic() + options.limit_s,
    )
    importlib.import_module(f"bench.gpu.{step.module}").measure(bench)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
