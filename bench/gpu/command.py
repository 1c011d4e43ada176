"""The command line of ``python -m bench gpu``.

Made with the standard library alone: the machine with the GPU may have neither Typer nor Numba.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu import plan, presence, table
from bench.gpu.plan import BUNDLE, EXPECTED, SUMMARY, TABLE
from bench.gpu.record import FORMAT, Finding, read_all
from bench.gpu.runner import run_steps
from bench.gpu.sizes import Sizes
from bench.harness.report import say
from supervisor.errors import AllstopError, ConfigError
from supervisor.system import durable

NO_GPU = 2


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    given = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        return _do(given)
    except AllstopError as error:
        say(f"bench gpu: {error}")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _do(given: argparse.Namespace) -> int:
    if given.bundle:
        from bench.gpu.bundle import make_bundle

        make_bundle(given.bundle)
        return 0
    if given.publish:
        from bench.gpu.published import publish

        publish(given.publish)
        return 0
    if given.out is None:
        raise ConfigError("--out DIR is missing: where the results go", key="out")
    steps = plan.choose(given.only)
    if why := presence.why_none():
        say(f"bench gpu: no GPU here: {why}")
        return NO_GPU
    return _measure(steps, given.out, given.expected, _sizes(given), given.limit)


def _measure(
    steps: Sequence[plan.Step], out: Path, expected: Path, sizes: Sizes, limit_s: float
) -> int:
    out.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine = presence.describe()
    try:
        run_steps(steps, out, expected.resolve(), sizes, limit_s, say)
    finally:
        # also after Ctrl+C: whatever there is by then
        found = read_all(out, (step.file for step in plan.STEPS))
        durable.write_json(out / SUMMARY, summary(date, machine, sizes, found))
        text = table.document(machine, found)
        durable.write_bytes(out / TABLE, [text.encode()])
        sys.stdout.write(text)
    return 0


def summary(
    date: str, machine: dict[str, Any], sizes: Sizes, found: dict[str, Finding]
) -> dict[str, Any]:
    """Return what describes a call: the machine, the sizes, and how each step ended."""
    steps = {
        name: {
            "status": finding.status,
            "why": finding.why,
            "took_s": finding.took_s,
            "missed": [row.name for row in finding.rows if row.met is False],
        }
        for name, finding in found.items()
    }
    return {
        "format": FORMAT,
        "date": date,
        "machine": machine,
        "sizes": dataclasses.asdict(sizes),
        "steps": steps,
    }


def _sizes(given: argparse.Namespace) -> Sizes:
    sizes = Sizes.quick() if given.quick else Sizes()
    if given.kills is None:
        return sizes
    first, _, last = given.kills.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ConfigError(f"--kills takes FIRST:LAST, such as 100:200, not {given.kills!r}")
    return dataclasses.replace(sizes, kills=(int(first), int(last)))


def _parser() -> argparse.ArgumentParser:
    steps = "\n".join(f"  {step.name:10} {step.title}" for step in plan.STEPS)
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu",
        description="Measure what only an NVIDIA GPU can show. Needs CuPy, PyTorch, nvidia-ml-py.",
        epilog=f"steps:\n{steps}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="directory of the results: at most 8 files")
    add("--only", default="", metavar="STEP,…", help="these steps alone")
    add("--quick", action="store_true", help="small sizes: a check that it works")
    add("--kills", metavar="FIRST:LAST", help="which of the 200 planned kills to make")
    add("--limit", type=float, default=plan.TOTAL_S, metavar="S", help="all steps together, in s")
    add(
        "--expected",
        type=Path,
        default=BUNDLE / EXPECTED,
        metavar="FILE",
        help="rows computed beforehand by --bundle; without them rows are not compared",
    )
    add("--bundle", type=Path, metavar="DIR", help="collect what the GPU machine lacks; no GPU")
    add(
        "--publish",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="take results into bench/results/gpu and docs/performance.md; no GPU",
    )
    return parser
