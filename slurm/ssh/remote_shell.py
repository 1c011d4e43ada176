"""What a login shell on the other side is told, and what of its answer is the program's.

The login shell may be bash, zsh, fish or tcsh, so its command line is a constant
without anything that one of them would take for more than a letter. It starts a
POSIX ``sh``, which reads one line, our script, from its input and becomes the
program; the rest of the input is the program's own. So no argument of ours is
seen in the other side's list of processes before the program is, none has to be
quoted twice, and 128 KiB, the limit for one argument, holds for each word and
not for all of them together.

Start-up files that print something do so before our script runs: everything up
to a random mark is theirs.
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

# in single quotes, and without a single quote, a backslash, a "!" or a newline: the same
# to every shell. A line that was cut, or of which a start-up file took a part, is not run
_BOOTSTRAP = (
    "exec sh -c 'LC_ALL=C; export LC_ALL; IFS= read -r allstop_line; "
    'case $allstop_line in ": {mark};"*"# {mark}") eval "$allstop_line";; *) exit 125;; esac\''
)

# a continuation line of some variable's value is no name: unset would end a dash
_SCRUB = (
    "IFS=$allstop_nl; set -f; for allstop_v in $(export -p); do "
    "allstop_v=${{allstop_v%%=*}}; allstop_v=${{allstop_v##* }}; case $allstop_v in "
    '*[!A-Za-z0-9_]*|{kept}) ;; {foreign}) command unset "$allstop_v";; esac; done; '
    "unset allstop_v IFS; set +f"
).format(kept="|".join(KEPT), foreign="|".join(f"{prefix}*" for prefix in FOREIGN))

_FIND = 'case $1 in */*) [ -f "$1" ] && [ -x "$1" ];; *) command -v "$1" >/dev/null 2>&1;; esac'


class Outcome(Enum):
    """What became of the script."""

    STARTED = auto()
    MISSING = auto()
    NOT_READ = auto()


class Cut(NamedTuple):
    """An answer without what start-up files have said.

    Attributes
    ----------
    outcome : Outcome
        Whether the program was started, was not found, or was never looked for.
    stdout, stderr : bytes
        What the program wrote; if there was none, all there is.
    """

    outcome: Outcome
    stdout: bytes
    stderr: bytes


class Frame:
    """One call: the line for the login shell, the script it reads, the mark in its answer.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments, any words without NUL.
    variables : mapping of str to str
        Environment variables to set for it.

    Raises
    ------
    ValueError
        If there is a NUL in a word, or a variable has no proper name.
    """

    def __init__(self, argv: Sequence[str], variables: Mapping[str, str]) -> None:
        self._mark = secrets.token_hex(12)
        self.command_line = _BOOTSTRAP.format(mark=self._mark)
        self.script = self._script(argv, variables).encode("utf-8", "surrogateescape")

    def cut(self, stdout: bytes, stderr: bytes) -> Cut:
        """Cut off everything before the mark, from both streams."""
        started, missing = f"{self._mark}=".encode(), f"{self._mark}!".encode()
        if missing in stdout:
            return Cut(Outcome.MISSING, b"", b"")
        if started not in stdout:
            return Cut(Outcome.NOT_READ, stdout, stderr)
        return Cut(Outcome.STARTED, stdout.partition(started)[2], stderr.partition(started)[2])

    def _script(self, argv: Sequence[str], variables: Mapping[str, str]) -> str:
        # the mark and its last letter apart: a shell that prints what it does (set -x) says
        # the one and the other, but not the mark
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
    # a newline would end the script, which is one line
    return '"$allstop_nl"'.join(map(shlex.quote, word.split("\n")))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of an environment variable: {name!r}")
    return name
