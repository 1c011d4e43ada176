"""The command line of ``python -m bench [NAME…]``: tables, and one JSON document."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.harness import report
from bench.harness.machine import describe_machine
from bench.harness.record import Document, Measurement
from bench.harness.shape import Shape
from bench.harness.workspace import Workspace
from supervisor.errors import ConfigError
from supervisor.system import durable

MEASUREMENTS = {
    "stop": "Time from the request to stop until no process is left.",
    "relaunch": "Time from the end of a stop until the next run computes.",
    "poll": "Cost of polling the stop flag, and the delay until a kernel sees it.",
    "sweep": "Throughput of whole runs, and the share of it that supervision costs.",
    "cancel": "Time and calls until none of a run's SLURM jobs is left.",
}
"""The measurements: each is a module with ``TITLE`` and ``measure(shape, workspace)``."""

_OUT = Path("bench/out")


def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Any of {', '.join(MEASUREMENTS)}.", show_default="all"),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of each measurement.", show_default="its own")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="File for the JSON document; - prints it instead of tables.",
            show_default="bench/out/<date>.json",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Small sizes: a check that it works, no figures to quote."),
    ] = False,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Measure other libraries too.")
    ] = True,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Set a size; bench/harness/shape.py lists them."
        ),
    ] = None,
) -> None:
    """Measure allstop against floors and against other libraries."""
    try:
        chosen = _chosen(names or [])
        shape = Shape.quick() if quick else Shape()
        shape = dataclasses.replace(shape, peers=peers)
        shape = shape.with_rounds(rounds).with_settings(settings or [])
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    document = measure(chosen, shape)
    if json_file == Path("-"):
        report.print_json(document)
        return
    report.print_document(document)
    path = json_file or _OUT / f"{document.date.replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_json(path, document.to_json())
    report.say(f"written to {path}")


def _end_in_order(number: int, _: object) -> None:
    """Exit in order: processes that were started are ended, suspended ones resumed."""
    sys.exit(128 + number)


def measure(names: tuple[str, ...], shape: Shape) -> Document:
    """Take measurements, one after the other."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine = describe_machine()
    taken = []
    with Workspace.temporary() as workspace:
        for name in names:
            report.say(f"measuring {name} …")
            module = importlib.import_module(f"bench.{name}")
            begun = time.monotonic()
            rows = tuple(module.measure(shape, workspace))
            taken.append(Measurement(name, module.TITLE, time.monotonic() - begun, rows))
    return Document(date, machine, dataclasses.asdict(shape), tuple(taken))


def _chosen(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if name not in MEASUREMENTS:
            raise ConfigError(f"no measurement {name!r}; there are {', '.join(MEASUREMENTS)}")
    return tuple(name for name in MEASUREMENTS if not names or name in names)


def main() -> None:
    """Parse the command line and take the measurements that it asks for."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_in_order)
    app = typer.Typer(add_completion=False)
    app.command(epilog="\n\n".join(f"{name}: {what}" for name, what in MEASUREMENTS.items()))(run)
    app()
