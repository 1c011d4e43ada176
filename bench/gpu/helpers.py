"""Users' own GPU functions stop, and compute-sanitizer finds nothing in our kernels."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import bench as package
from bench.gpu.children import answer_of
from bench.gpu.grids import STRATEGIES
from bench.gpu.step import Bench
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.example import example_bars

EXAMPLES = Path(package.__file__).parent.parent / "docs" / "examples" / "gpu"

_BARS = 525_600
_SMALL_COMBOS, _SMALL_BARS = 64, 5_000
_SANITIZER_S = 25.0
_EXAMPLE_S = 20.0


class Example(NamedTuple):
    """A function of the documentation.

    Attributes
    ----------
    path : Path
        Its file.
    function : str
        Its name.
    params : dict
        The first value of each axis of the grid that its docstring shows.
    """

    path: Path
    function: str
    params: dict[str, float]


def measure(bench: Bench) -> None:
    """Stop every example of the documentation, then run the sanitizer as time permits."""
    record = bench.record
    for example in examples(EXAMPLES):
        name = f"{example.path.stem}: request → the function has returned"
        try:
            seen = answer_of(partial(stop_example, example), min(_EXAMPLE_S, bench.left_s()))
        except NotMeasuredError as error:
            record.row(Row(name, "ms", not_measured=str(error)))
            continue
        record.fact(example.path.stem, seen)
        if seen["stopped"]:
            note = f"of {seen['whole_ms']:.0f} ms"
            record.row(compare(name, "ms", [seen["return_ms"]], note=note))
        else:
            record.row(Row(name, "ms", not_measured="it had finished before the stop"))
    for tool in ("memcheck", "racecheck"):
        for strategy in STRATEGIES:
            if bench.left_s() < _SANITIZER_S / 2:
                return
            record.row(sanitized(tool, strategy, min(_SANITIZER_S, bench.left_s())))


def examples(directory: Path) -> list[Example]:
    """Return the examples of a directory, as their docstrings say they are run."""
    found = []
    for path in sorted(directory.glob("*.py")):
        text = path.read_text()
        command = re.search(rf"{path.name}:(\w+)((?: --grid \S+)*)", re.sub(r"\\\n\s*", "", text))
        if command:
            axes = re.findall(r"--grid (\w+)=([\d.]+)", command[2])
            params = {name: float(value) for name, value in axes}
            found.append(Example(path, command[1], params))
    return found


def stop_example(example: Example) -> dict[str, Any]:
    """Run a function whole, then again with a stop in its middle."""
    spec = importlib.util.spec_from_file_location(example.path.stem, example.path)
    if spec is None or spec.loader is None:
        raise NotMeasuredError(f"{example.path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, example.function)
    bars, params, stop = example_bars(_BARS), _whole(example.params), StopFlag()
    function(bars, params, stop)  # compiles
    begun = time.monotonic()
    function(bars, params, stop)
    whole_s = time.monotonic() - begun
    timer = threading.Timer(whole_s / 3, stop.set)
    timer.start()
    answer = function(bars, params, stop)
    returned = time.monotonic()
    timer.join()
    requested = stop.requested_at or returned
    return {
        "stopped": answer is None,
        "whole_ms": 1000 * whole_s,
        "return_ms": 1000 * (returned - requested),
        "tier": str(stop.cuda.tier),
        "why": stop.cuda.why,
    }


def _whole(params: dict[str, float]) -> dict[str, float]:
    """Return parameters as a run gives them: whole numbers as integers."""
    return {name: int(value) if value.is_integer() else value for name, value in params.items()}


def sanitized(tool: str, strategy: str, limit_s: float) -> Row:
    """Run a small sweep under compute-sanitizer; return how many errors it saw."""
    name = f"compute-sanitizer {tool}, {strategy}: errors"
    command = [
        *("compute-sanitizer", "--tool", tool),
        *(sys.executable, "-P", "-m", "bench.gpu.launch", strategy),
        *(str(_SMALL_COMBOS), str(_SMALL_BARS)),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, check=False, env=os.environ
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Row(name, "", target=Target(0), not_measured=str(error))
    errors = errors_in(done.stdout)
    if errors is None or f"{_SMALL_COMBOS} rows" not in done.stdout:
        why = (done.stdout + done.stderr)[-400:]
        return Row(name, "", target=Target(0), not_measured=why)
    return compare(name, "", [errors], target=Target(0))


def errors_in(text: str) -> int | None:
    """Return the errors that compute-sanitizer counted; None: it has not said.

    Examples
    --------
    >>> errors_in("========= ERROR SUMMARY: 3 errors")
    3
    >>> errors_in("========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)")
    2
    """
    found = re.findall(r"SUMMARY: (\d+) (?:error|hazard)", text)
    return int(found[-1]) if found else None
