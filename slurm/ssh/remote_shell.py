"""Runs a program through any login shell, and cuts its output out of the answer.

The login shell may be bash, zsh, fish or tcsh, so the command line it gets is a constant
in which none of them finds a special character. It starts a POSIX ``sh``, which reads
one line, our script, from its input and executes the program; the rest of the input is
the program's. So arguments do not show in the host's list of processes before the
program runs, none is quoted twice, and the limit of 128 KiB for one argument applies to
each word and not to all of them together.

Start-up files may print something before the script runs: everything up to a random
mark is cut off.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from slurm.environment import FOREIGN, KEPT, LOCALE

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# in single quotes, and without a single quote, backslash, "!" or newline, it is the same to every
# shell. A line that was truncated, or partly read by a start-up file, is not run
_BOOTSTRAP = (
    "exec sh -c 'LC_ALL=C; export LC_ALL; IFS= read -r allstop_line; "
    'case $allstop_line in ": {mark};"*"# {mark}") eval "$allstop_line";; *) exit 125;; esac\''
)

# a continuation line of a variable's value is not a name: unset would exit a dash
_SCRUB = (
    "IFS=$allstop_nl; set -f; for allstop_v in $(export -p); do "
    "allstop_v=${{allstop_v%%=*}}; allstop_v=${{allstop_v##* }}; case $allstop_v in "
    '*[!A-Za-z0-9_]*|{kept}) ;; {foreign}) command unset "$allstop_v";; esac; done; '
    "unset allstop_v IFS; set +f"
).format(kept="|".join(KEPT), foreign="|".join(f"{prefix}*" for prefix in FOREIGN))

_FIND = 'case $1 in */*) [ -f "$1" ] && [ -x "$1" ];; *) command -v "$1" >/dev/null 2>&1;; esac'


class Outcome(Enum):
    """How far the script got."""

    STARTED = auto()
    MISSING = auto()
    NOT_READ = auto()


class Cut(NamedTuple):
    """An answer without the output of start-up files.

    Attributes
    ----------
    outcome : Outcome
        Whether the program was started or not found, or the script was not read.
    stdout, stderr : bytes
        The program's output; if it was not started, all output.
    """

    outcome: Outcome
    stdout: bytes
    stderr: bytes


class Frame:
    """One call: the command line for the login shell, the script, the mark in the answer.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments; any words without NUL.
    variables : mapping of str to str
        Environment variables to set for it.

    Raises
    ------
    ValueError
        If a word has a NUL, or a variable's name is not valid.
    """

    def __init__(self, argv: Sequence[str], variables: Mapping[str, str]) -> None:
        self._mark = secrets.token_hex(12)
        self.command_line = _BOOTSTRAP.format(mark=self._mark)
        self.script = self._script(argv, variables).encode("utf-8", "surrogateescape")

    def cut(self, stdout: bytes, stderr: bytes) -> Cut:
        """Cut off everything before the mark, in both streams."""
        started, missing = f"{self._mark}=".encode(), f"{self._mark}!".encode()
        if missing in stdout:
            return Cut(Outcome.MISSING, b"", b"")
        if started not in stdout:
            return Cut(Outcome.NOT_READ, stdout, stderr)
        return Cut(Outcome.STARTED, stdout.partition(started)[2], stderr.partition(started)[2])

    def _script(self, argv: Sequence[str], variables: Mapping[str, str]) -> str:
        # the mark and its last character are two arguments: a shell that traces its commands
        # (set -x) prints the two apart, and so does not print the mark
        say = f"printf %s%s {self._mark}"
        steps = [
            f": {self._mark}",
            r"allstop_nl=$(printf '\nx'); allstop_nl=${allstop_nl%x}",
            _SCRUB,
            f"LC_ALL={LOCALE}; export LC_ALL",
            *(f"export {_checked(name)}={_quote(value)}" for name, value in variables.items()),
            f"set -- {' '.join(map(_quote, argv))}",
            "unset allstop_line allstop_nl",
            f"{_FIND} || {{ {say} !; exit 127; }}",
            f'{say} = >&2; {say} =; exec "$@" # {self._mark}\n',
        ]
        return "; ".join(steps)


def _quote(word: str) -> str:
    if "\0" in word:
        raise ValueError("a word of a command cannot contain NUL")
    # the script is one line: a newline would end it
    return '"$allstop_nl"'.join(map(shlex.quote, word.split("\n")))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of an environment variable: {name!r}")
    return name
