"""Reads an ``ssh_config`` without OpenSSH's client, by paramiko."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from slurm.errors import LinkRefusedError
from supervisor.system.small_file import read_small_text

_TOO_HARD = re.compile(r"^\s*(include|match)\b", re.IGNORECASE | re.MULTILINE)


def read_plainly(where: str, file: Path, host: str, *, of_user: bool) -> dict[str, list[str]]:
    """Return a host's options by name in lower case, tokens not yet replaced.

    Nothing is found where there is no file. ``of_user``: it is the user's own, which has to be
    the user's or root's, and not writable by others, as OpenSSH demands.

    Raises
    ------
    LinkRefusedError
        If the file cannot be read, others may have written it, or paramiko would misread it.
    """
    import paramiko

    try:
        if of_user:
            _check_owner(where, file)
        text = read_small_text(file)
        if _TOO_HARD.search(text):
            raise LinkRefusedError(
                f"{where}: {file} has Include or Match, which only OpenSSH's client can "
                "evaluate: install it"
            )
        found = _unexpanded(paramiko.SSHConfig).from_text(text).lookup(host)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise LinkRefusedError(f"{where}: {file}: {error}") from None
    return {
        key: value if isinstance(value, list) else [value or "none"] for key, value in found.items()
    }


def _check_owner(where: str, file: Path) -> None:
    facts = file.stat()
    if facts.st_uid not in (0, os.getuid()) or facts.st_mode & 0o022:
        raise LinkRefusedError(
            f"{where}: {file} belongs to another user, or others may write it: chmod go-w {file}"
        )


def _unexpanded(reader: Any) -> Any:
    """Return paramiko's reader without its tokens: it does not know the user who is asked for."""

    class Unexpanded(reader):  # type: ignore[misc]  # paramiko has no types
        def _expand_variables(self, options: Any, _host: str) -> Any:
            return options

    return Unexpanded
