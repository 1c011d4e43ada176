"""The mark by which a run's jobs are told from everybody else's.

A job's id is known only once the controller has answered, and is handed out
again after a crash of the controller. The token is ours: made before anything
is asked for, carried by the job in its wckey, and in its name where we write the
script. Jobs are cancelled by token, or by an id that bears it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping

from supervisor.errors import ConfigError

_PREFIX = "allstop-"
_SHAPE = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")

# each command has its own variable; together they reach whatever is started below us
_VARIABLES = ("SBATCH_WCKEY", "SALLOC_WCKEY", "SLURM_WCKEY")


def new_token(run_id: str | None = None) -> str:
    """Make a token that no two runs of any user share.

    Lower case: the controller makes it so (``scontrol(1)``, WCKey). The random
    part is there for other people's machines: run ids are unique to one of them.
    """
    stem = run_id or time.strftime("%Y%m%d-%H%M%S")
    return f"{_PREFIX}{stem}-{secrets.token_hex(4)}"


def check_token(token: str) -> str:
    """Return a token that somebody has brought along, if it can be one.

    The controller writes wckeys in lower case, a dot would make one token the end of
    another in a job's name, and the token names files.

    Raises
    ------
    ConfigError
        If it cannot.
    """
    if not _SHAPE.fullmatch(token):
        raise ConfigError(
            f"token: {token!r} is not made of at most 100 of a-z, 0-9, '-' and '_'", key="token"
        )
    return token


def token_variables(token: str) -> Mapping[str, str]:
    """Environment variables by which all that is submitted below bears a token.

    References
    ----------
    sbatch(1), salloc(1), srun(1), "INPUT ENVIRONMENT VARIABLES".
    """
    return dict.fromkeys(_VARIABLES, token)


def job_name(name: str, token: str, number: int) -> str:
    """Name a job so that it is found by token, and by which submission it was."""
    return f"{name}.{token}.{number}"


def number_in_name(name: str, token: str) -> int | None:
    """Which submission a job's name tells of; None if it is not one of the token's."""
    stem, _, number = name.rpartition(".")
    if stem.endswith("." + token) and number.isdecimal():
        return int(number)
    return None


def bears(token: str, *, wckey: str, name: str) -> bool:
    """Whether a job is one of a token's; where there is no token, none is.

    Where wckeys are accounted for the controller shows a user's default one with
    an asterisk; ours is never the default.
    """
    return bool(token) and (wckey == token or number_in_name(name, token) is not None)
