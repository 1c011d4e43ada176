"""``python -m bench [NAME…]``: measure, print tables, keep one JSON document."""

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

NAMES = ("stop", "relaunch", "poll", "sweep", "cancel")
"""The measurements: a module each, with ``TITLE`` and ``measure(shape, workspace)``."""

_OUT = Path("bench/out")


def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Any of {', '.join(NAMES)}.", show_default="all"),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of every measurement.", show_default="by each")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Where the JSON goes; - prints it instead of tables.",
            show_default="bench/out/<date>.json",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, to see it work; nothing to quote.")
    ] = False,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Measure other libraries, too.")
    ] = True,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One of the sizes in bench/shape.py."),
    ] = None,
) -> None:
    """Measure allstop against its floors and its peers."""
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
    """Have everything that was begun ended, and what is suspended resumed, on the way out."""
    sys.exit(128 + number)


def measure(names: tuple[str, ...], shape: Shape) -> Document:
    """Take some measurements, one after the other."""
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
        if name not in NAMES:
            raise ConfigError(f"no measurement {name!r}; there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if not names or name in names)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_in_order)
    typer.run(run)
