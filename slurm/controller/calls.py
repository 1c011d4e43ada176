"""Calls SLURM's commands, and classifies their failures.

A command that reports a timeout may have taken effect, or may still do so: the
controller reads its socket when it is running again.

References
----------
``slurm/slurm_errno.h`` for the messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from slurm.errors import SlurmError
from slurm.transport import NO_VARIABLES, Answer, Transport

# messages when the controller, munge or the network does not answer: worth a retry
_AWAY = re.compile(
    r"timed out|unable to contact|connection refused|connect failure|communication"
    r"|zero bytes were transmitted|munge|protocol authentication|authentication"
    r"|temporarily|try again|not responding|socket|transport endpoint|backup controller"
    r"|slurmctld|interrupted system call|resource temporarily unavailable"
    r"|no route to host|unreachable|host is down|broken pipe|connection reset"
    r"|unable to resolve|name resolution|name or service not known",
    re.IGNORECASE,
)

SUBMIT_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 30.0


class Cluster:
    """SLURM's commands, through a transport.

    Parameters
    ----------
    transport : Transport
        Runs them.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @property
    def name(self) -> str:
        """The cluster, for people."""
        return self.transport.name

    @cached_property
    def user(self) -> str:
        """Our user id there, as a number: a name may hold what ``squeue`` splits at."""
        return self.ask("id", "-u").stdout.strip()

    def call(
        self,
        *argv: str,
        stdin: bytes = b"",
        variables: Mapping[str, str] = NO_VARIABLES,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> Answer:
        """Run a command; return its answer, failed or not."""
        return self.transport.run(argv, stdin=stdin, variables=variables, timeout_s=timeout_s)

    def ask(
        self,
        *argv: str,
        variables: Mapping[str, str] = NO_VARIABLES,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> Answer:
        """Run a command that must succeed.

        Raises
        ------
        SlurmError
            If it failed; transient if the controller did not answer.
        TransportError
            If no answer came.
        """
        answer = self.call(*argv, variables=variables, timeout_s=timeout_s)
        if answer.code != 0:
            raise self.error(argv[0], answer)
        return answer

    def error(self, program: str, answer: Answer) -> SlurmError:
        """Make an error of a failed command's message."""
        said = answer.complaint
        return SlurmError(self.name, program, answer.code, said, transient=is_away(said))


def is_away(said: str) -> bool:
    """Whether a message means that the controller was not reached, or perhaps not."""
    return _AWAY.search(said) is not None
