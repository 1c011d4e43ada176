"""The token by which a run's jobs are recognised.

A job's id is known only once the controller has answered, and may be reused after a
crash of the controller. The token is made before anything is submitted. A job has it
in its wckey, and also in its name where we write the script. Jobs are cancelled by
token, or by an id that was seen with it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Annotated

from supervisor.errors import ConfigError
from supervisor.system.shape import Matching

_PREFIX = "allstop-"
_SHAPE = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")

Token = Annotated[str, Matching(_SHAPE)]
JobId = Annotated[str, Matching(re.compile(r"[0-9][0-9A-Za-z_+.-]{0,39}"))]
"""As ``sbatch --parsable`` prints it; it is passed to SLURM's commands, so it is no option."""

# one variable per command: they are inherited by all programs that are started below us
_VARIABLES = ("SBATCH_WCKEY", "SALLOC_WCKEY", "SLURM_WCKEY")


def new_token(run_id: str | None = None) -> str:
    """Make a token that no other run of any user has.

    It is in lower case because the controller converts wckeys (``scontrol(1)``, WCKey).
    The random part is needed because run ids are unique on one machine only.
    """
    stem = run_id or time.strftime("%Y%m%d-%H%M%S")
    return f"{_PREFIX}{stem}-{secrets.token_hex(4)}"


def check_token(token: str) -> str:
    """Return a caller's token if it is valid.

    The controller converts wckeys to lower case, a dot would make one token the suffix of
    another in a job's name, and the token is part of file names.

    Raises
    ------
    ConfigError
        If it is not.
    """
    if not (isinstance(token, str) and _SHAPE.fullmatch(token)):
        raise ConfigError(
            f"token: {token!r} is not 1 to 100 characters of a-z, 0-9, '-' and '_'",
            key="token",
        )
    return token


def token_variables(token: str) -> Mapping[str, str]:
    """Environment variables that give a token to every job submitted below.

    References
    ----------
    sbatch(1), salloc(1), srun(1), "INPUT ENVIRONMENT VARIABLES".
    """
    return dict.fromkeys(_VARIABLES, token)


def job_name(name: str, token: str, number: int) -> str:
    """Name a job so that its name shows its token and the number of its submission."""
    return f"{name}.{token}.{number}"


def number_in_name(name: str, token: str) -> int | None:
    """The number of the submission in a job's name; None: it does not have the token."""
    stem, _, number = name.rpartition(".")
    if stem.endswith("." + token) and number.isdecimal():
        return int(number)
    return None


def bears(token: str, *, wckey: str, name: str) -> bool:
    """Whether a job has a token; an empty token matches none.

    Where wckeys are accounted for, the controller shows a user's default one with an
    asterisk; ours is never the default.
    """
    return bool(token) and (wckey == token or number_in_name(name, token) is not None)
