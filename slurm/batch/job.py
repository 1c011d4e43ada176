"""A job's options: checked, and turned into the arguments of ``sbatch``.

Options are arguments and never ``#SBATCH`` lines: an argument may hold quotes, spaces
and dollar signs, and is not parsed a second time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from supervisor.errors import ConfigError

_MAX_NAME = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}", re.ASCII)
_SIZE = re.compile(r"\d+[KMGT]?", re.ASCII | re.IGNORECASE)
_ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?", re.ASCII)

_TEXTS = (
    "name", "partition", "account", "qos", "gres", "constraint", "output", "error", "directory",
)  # fmt: skip
_TEXTS_OR_NUMBERS = ("time_limit", "memory", "gpus", "nodes", "array")

# bash sets or interprets these itself: the job would not see the value that was set
_BASH_VARIABLES = re.compile(
    r"_|UID|EUID|PPID|GROUPS|SHELLOPTS|BASH(OPTS|PID|_.*)?|S?RANDOM|SECONDS|EPOCH(SECONDS|REALTIME)"
    r"|LINENO|FUNCNAME|DIRSTACK|HISTCMD|OPTIND|COMP_.*|PWD|OLDPWD|SHLVL|POSIXLY_CORRECT"
)
_TOKEN_VARIABLES = re.compile(r"(SBATCH|SALLOC|SLURM)_WCKEY")

# options that would break how a job is submitted, found again or waited for
_OURS = {
    "--array": "array", "--job-name": "name", "--wckey": None, "--parsable": None, "--hold": "hold",
    "--wait": None, "--test-only": None, "--wrap": "command", "--help": None, "--usage": None,
    "--version": None, "--clusters": None, "--export": "environment",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job to submit.

    Attributes
    ----------
    command : sequence of str
        Program and arguments.
    name : str
        Shown by ``squeue``; the run's token is appended.
    partition, account, qos, constraint, gres : str, optional
        As ``sbatch`` takes them.
    time_limit : str or int, optional
        Minutes, or ``[days-]hours[:minutes[:seconds]]``.
    memory : str, optional
        Per node: ``4G``; a number alone is MB.
    cpus : int, optional
        Per task.
    gpus : str or int, optional
        Number, or ``type:number``.
    tasks : int, optional
        Number of tasks.
    nodes : str or int, optional
        Number, or ``least-most``.
    array : str or int, optional
        Indices (``0-99``, ``1,3,7-9%4``); a number n means ``0-(n-1)``.
    output, error : str, optional
        Log files, with ``sbatch``'s patterns.
    directory : str, optional
        Working directory.
    requeue : bool
        Whether SLURM may restart it after a node failure or a preemption.
    hold : bool
        Leave it held until it is released with ``scontrol release``.
    environment : mapping of str to str
        Variables to set.
    setup : sequence of str
        Lines of bash to run before the command, unquoted: ``module load …``.
    options : sequence of str
        Further arguments of ``sbatch``, each one word in long form: ``--exclusive``.

    Raises
    ------
    ConfigError
        If a value is not valid; names the option and the fix.
    """

    command: Sequence[str]
    name: str = "allstop"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_limit: str | int | None = None
    memory: str | int | None = None
    cpus: int | None = None
    gpus: str | int | None = None
    gres: str | None = None
    tasks: int | None = None
    nodes: str | int | None = None
    array: str | int | None = None
    constraint: str | None = None
    output: str | None = None
    error: str | None = None
    directory: str | None = None
    requeue: bool = False
    hold: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: Sequence[str] = ()
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_types(self)
        _check_command(self.command)
        _check_words(self)
        _check_shape("time_limit", self.time_limit, _TIME, "minutes, or 1-12:30:00")
        _check_shape("memory", self.memory, _SIZE, "MB, or 512M, 4G")
        _check_shape("array", self.array, _ARRAY, "0-99, 1,3,7-9, or 0-999%50")
        for key in ("cpus", "tasks"):
            _check_count(key, getattr(self, key))
        if isinstance(self.array, int):
            _check_count("array", self.array)
        _check_environment(self.environment)
        _check_options(self.options)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Make a job from a mapping; an unknown key is refused with the list of known ones."""
        known = [key.name for key in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(
                f"unknown job option {', '.join(unknown)}: known are {', '.join(known)}",
                key=unknown[0],
            )
        return cls(**options)

    def arguments(self, name: str) -> list[str]:
        """Return the arguments of ``sbatch`` for this job.

        Parameters
        ----------
        name : str
            Its name at the controller.
        """
        array = f"0-{self.array - 1}" if isinstance(self.array, int) else self.array
        given = {
            "job-name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time_limit,
            "mem": self.memory,
            "cpus-per-task": self.cpus,
            "gpus": self.gpus,
            "gres": self.gres,
            "ntasks": self.tasks,
            "nodes": self.nodes,
            "array": array,
            "constraint": self.constraint,
            "output": self.output,
            "error": self.error,
            "chdir": self.directory,
        }
        words = [f"--{option}={value}" for option, value in given.items() if value is not None]
        words.append("--requeue" if self.requeue else "--no-requeue")
        if self.requeue:
            words.append("--open-mode=append")  # a restart must not truncate the log
        return words + list(self.options)


def _check_types(job: Job) -> None:
    """Check the types: values may come from a file."""
    for key in _TEXTS + _TEXTS_OR_NUMBERS:
        value = getattr(job, key)
        fits = isinstance(value, (str, int) if key in _TEXTS_OR_NUMBERS else str)
        if isinstance(value, bool) or not (fits or (value is None and key != "name")):
            raise ConfigError(f"{key}: {value!r} is not a string", key=key)
    for key in ("requeue", "hold"):
        if not isinstance(getattr(job, key), bool):
            raise ConfigError(f"{key}: {getattr(job, key)!r} is not true or false", key=key)
    for key, example in (
        ("command", "give a program and its arguments as a list: ['python', 'fit.py']"),
        ("setup", "give lines of bash as a list: ['module load cuda']"),
        ("options", "give arguments of sbatch as a list: ['--exclusive']"),
    ):
        words = getattr(job, key)
        if not isinstance(words, (list, tuple)) or not all(isinstance(w, str) for w in words):
            raise ConfigError(f"{key}: {example}", key=key)
        for word in words:
            _check_bytes(key, word)
    if not isinstance(job.environment, Mapping):
        raise ConfigError("environment: give names and values: {'SEED': '1'}", key="environment")


def _check_bytes(key: str, word: str) -> None:
    """Check that a word can be an argument: bytes without NUL."""
    try:
        if b"\0" not in os.fsencode(word):
            return
    except UnicodeEncodeError:
        raise ConfigError(f"{key}: {word!r} cannot be written as UTF-8", key=key) from None
    raise ConfigError(f"{key}: {word!r} holds a NUL byte", key=key)


def _check_command(command: Sequence[str]) -> None:
    if not command or not command[0]:
        raise ConfigError("command: it names no program", key="command")


def _check_words(job: Job) -> None:
    """Check that no value could end a line of ``squeue``'s output, or count as missing."""
    for key in (*_TEXTS, "gpus", "nodes"):
        value = getattr(job, key)
        if value is None or isinstance(value, int):
            continue
        _check_bytes(key, value)
        if not value or _CONTROL.search(value):
            raise ConfigError(f"{key}: {value!r} is empty or holds a control character", key=key)
    if len(job.name) > _MAX_NAME:
        raise ConfigError(
            f"name: {len(job.name)} characters, at most {_MAX_NAME}: {job.name[:30]}…", key="name"
        )


def _check_shape(key: str, value: object, shape: re.Pattern[str], wanted: str) -> None:
    if value is not None and not shape.fullmatch(str(value)):
        raise ConfigError(f"{key}: {value!r} is not valid: give {wanted}", key=key)


def _check_count(key: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or value is True or value < 1):
        raise ConfigError(f"{key}: {value!r} is not a positive number", key=key)


def _check_environment(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not isinstance(name, str) or not _VARIABLE_NAME.fullmatch(name):
            raise ConfigError(f"environment: {name!r} is not a variable name", key="environment")
        if _BASH_VARIABLES.fullmatch(name):
            raise ConfigError(
                f"environment: {name} is set by bash itself: set it in the command, with env",
                key="environment",
            )
        if _TOKEN_VARIABLES.fullmatch(name):
            raise ConfigError(
                f"environment: {name} belongs to allstop: leave it out", key="environment"
            )
        if not isinstance(value, str):
            raise ConfigError(f"environment: {name}: {value!r} is not a string", key="environment")
        _check_bytes("environment", value)


def _check_options(options: Sequence[str]) -> None:
    for word in options:
        if not word.startswith("--") or _CONTROL.search(word):
            raise ConfigError(
                f"options: {word!r} is not a long option in one word, as --exclusive or "
                "--mail-type=END",
                key="options",
            )
        option = word.split("=", 1)[0]
        for ours, instead in _OURS.items():
            if ours.startswith(option):  # sbatch accepts unambiguous prefixes, too
                fix = f"use {instead!r}" if instead else "it belongs to allstop: leave it out"
                raise ConfigError(f"options: {word!r}: {fix}", key="options")
