"""A program that is supervised instead of a sweep: its plan, and what it inherits.

The program should not notice the supervision: it inherits the caller's directory, environment
and standard streams, and nothing of the warden, which starts it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from supervisor.errors import ConfigError
from supervisor.records.plan import Plan, StopTimes
from supervisor.records.rundir import RUN_FILE, read_run_file
from supervisor.system.shape import ShapeError, read_as

T = TypeVar("T")

COMMAND_KEY = "command"
"""Key of ``run.json`` that only the run of a command has."""


@dataclass(frozen=True, slots=True)
class CommandPlan:
    """The plan of a run that supervises a command.

    Attributes
    ----------
    run_id : str
        Name of the run, unique per user.
    command : tuple of str
        The program and its arguments, verbatim; bytes that are not UTF-8 as
        surrogates (:func:`os.fsencode` gives them back).
    times : StopTimes
        Timers of the escalation.
    containment : str
        One of :data:`~supervisor.records.plan.CONTAINMENTS`.
    """

    run_id: str
    command: tuple[str, ...]
    times: StopTimes = field(default_factory=StopTimes)
    containment: str = "auto"

    combos_total: ClassVar[int] = 0
    resumed: ClassVar[int] = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``run.json``."""
        return {
            "run_id": self.run_id,
            COMMAND_KEY: list(self.command),
            "times": asdict(self.times),
            "containment": self.containment,
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> CommandPlan:
        """Rebuild a plan from what :meth:`to_json` wrote; further keys are left alone.

        Raises
        ------
        ValueError, ConfigError
            If a key is missing, or its value is of another type or impossible; names it.
        """
        return read_as(cls, plain)

    @property
    def name(self) -> str:
        """The program, as messages show it."""
        return shown(self.command[:1])


AnyPlan = Plan | CommandPlan


def read_plan(plain: dict[str, Any]) -> AnyPlan:
    """Rebuild the plan in a ``run.json``, of a sweep or of a command."""
    return CommandPlan.from_json(plain) if COMMAND_KEY in plain else Plan.from_json(plain)


def plan_of(run_dir: Path) -> AnyPlan:
    """Read the plan of the run in a directory.

    Raises
    ------
    ConfigError
        If ``run.json`` cannot be read, or has no plan; one line that names the file and the key.
    """
    return checked_plan(read_run_file(run_dir), run_dir / RUN_FILE)


def run_record(run_dir: Path, kind: type[T]) -> T:
    """Read a part of ``run.json`` as a record; raises as :func:`plan_of`."""
    try:
        return read_as(kind, read_run_file(run_dir))
    except ShapeError as error:
        raise ConfigError(f"{run_dir / RUN_FILE}: not the plan of a run: {error}") from None


def checked_plan(plain: dict[str, Any], file: Path) -> AnyPlan:
    """Rebuild the plan in a ``run.json`` that was read from ``file``; see :func:`plan_of`."""
    try:
        return read_plan(plain)
    except ShapeError as error:
        raise ConfigError(f"{file}: not the plan of a run: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}", key=error.key) from None


def shown(command: tuple[str, ...]) -> str:
    """Show a command as a shell takes it; bytes that cannot be shown are escaped."""
    return shlex.join(command).encode(errors="backslashreplace").decode()


@dataclass(slots=True)
class Streams:
    """The standard streams that a command inherits.

    Attributes
    ----------
    given : list of int
        Those of 0, 1 and 2 that were open when this process began.
    keep : frozenset of int
        Those that this process keeps using after the command has them.
    """

    given: list[int]
    keep: frozenset[int] = frozenset({2})

    def let_go(self) -> None:
        """Close the others in this process.

        The other end of a pipe then sees EOF as soon as the command closes it.
        """
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in self.given:
            if fd not in self.keep:
                os.dup2(nowhere, fd)
        os.close(nowhere)


def own_environment() -> bytes:
    """The environment this process was started with: ``NAME=value`` entries, ended by NUL.

    Not ``os.environ``: Python adds to it where the locale is C, and so does this package while
    libraries load.
    """
    try:
        return Path("/proc/self/environ").read_bytes()
    except OSError:
        return b"".join(b"%s=%s\0" % pair for pair in os.environb.items())


def parse_environment(block: bytes) -> dict[bytes, bytes]:
    """Take an environment apart; entries without a ``=`` are left out."""
    pairs = (entry.partition(b"=") for entry in block.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals and name}


def check_command(command: list[str]) -> tuple[str, ...]:
    """Return the command, or raise :class:`ConfigError` if there is none."""
    if not command:
        raise ConfigError("which command? write it after --: run -- CMD ARG…", key=COMMAND_KEY)
    return tuple(command)
