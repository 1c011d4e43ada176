"""Names of hosts and users, and the tokens of ``ssh_config`` that stand for them.

A name may get into a command line by way of a token (``ProxyCommand nc %h %p``), and that is
run by a shell. So a name that a shell would not take as one plain word is refused before
anything is done with it, as OpenSSH does, wherever it was given.

References
----------
ssh_config(5), TOKENS and ENVIRONMENT VARIABLES; CVE-2023-51385.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import socket
from collections.abc import Collection, Mapping
from typing import NamedTuple

from slurm.errors import LinkRefusedError
from supervisor.errors import brief

_FOR_A_SHELL = frozenset("'`\"$\\;&<>|(){}[]*?#!~")
_TOKEN = re.compile(r"%(.?)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")

OF_PATHS = frozenset("%CdhijkLlnpru")
"""Tokens of IdentityFile, UserKnownHostsFile and RevokedHostKeys."""
OF_PROXY = frozenset("%hnpr")
"""Tokens of ProxyCommand and ProxyJump."""


def check_host(where: str, host: str) -> str:
    """Return a host's name; refuse one that a shell or a program would not take as a name.

    Raises
    ------
    LinkRefusedError
        If it begins with ``-``, or has white space, control characters, or characters that mean
        something to a shell.
    """
    if not host or host.startswith("-") or any(map(_is_no_letter, host)):
        raise LinkRefusedError(f"{where}: {brief(host)} is not the name of a host")
    return host


def check_user(where: str, user: str) -> str:
    r"""Return a user's name; refuse one as :func:`check_host` does; ``DOMAIN\user`` is one."""
    plain = re.sub(r"(?<=\w)\\(?=\w)", "", user)
    if user.startswith("-") or any(map(_is_no_letter, plain)):
        raise LinkRefusedError(f"{where}: {brief(user)} is not the name of a user")
    return user


def _is_no_letter(letter: str) -> bool:
    return letter in _FOR_A_SHELL or letter.isspace() or not letter.isprintable()


def check_entry(server: str, directory: str, name: str) -> None:
    """Refuse an entry that would lie outside its directory: no server of good faith lists one."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise LinkRefusedError(
            f"{server}: lists {brief(name)} in {directory}, which is no name of a file: its SFTP "
            "server is not to be trusted"
        )


class Place(NamedTuple):
    """What the tokens stand for."""

    where: str
    alias: str
    hostname: str
    port: str
    user: str
    host_key_alias: str = ""
    jump: str = ""

    def tokens(self) -> dict[str, str]:
        """Return what each token stands for, by its letter."""
        node = socket.gethostname()
        me = pwd.getpwuid(os.getuid())
        joined = f"{node}{self.hostname}{self.port}{self.user}{self.jump}"
        return {
            "%": "%",
            "C": hashlib.sha1(joined.encode(), usedforsecurity=False).hexdigest(),
            "d": me.pw_dir,
            "h": self.hostname,
            "i": str(os.getuid()),
            "j": self.jump,
            "k": self.host_key_alias or self.alias,
            "L": node.partition(".")[0],
            "l": node,
            "n": self.alias,
            "p": self.port,
            "r": self.user,
            "u": me.pw_name,
        }

    def expand(self, keyword: str, text: str, known: Collection[str]) -> str:
        """Replace the tokens of a keyword's value, each once.

        Raises
        ------
        LinkRefusedError
            If there is a token that the keyword has not.
        """
        tokens = self.tokens() if "%" in text else {}

        def value(found: re.Match[str]) -> str:
            if found[1] not in known:
                raise LinkRefusedError(
                    f"{self.where}: its configuration: {keyword} has no token "
                    f"{brief(found[0])}: it has {', '.join(f'%{one}' for one in sorted(known))}"
                )
            return tokens[found[1]]

        return _TOKEN.sub(value, text)

    def expand_command(self, text: str) -> str:
        """Replace the tokens of a ProxyCommand, which a shell will run.

        Raises
        ------
        LinkRefusedError
            If a name in it would mean something to the shell.
        """
        if "%r" in text and "\\" in self.user:
            raise LinkRefusedError(
                f"{self.where}: its configuration: {brief(self.user)} cannot be the %r of a "
                "ProxyCommand: a shell would take the backslash away"
            )
        return self.expand("ProxyCommand", text, OF_PROXY)

    def expand_path(self, keyword: str, text: str, environment: Mapping[str, str]) -> str:
        """Replace the tokens and the environment variables in a path, each once.

        Raises
        ------
        LinkRefusedError
            If there is no such token or variable.
        """

        def value(found: re.Match[str]) -> str:
            if found[1] not in environment:
                raise LinkRefusedError(
                    f"{self.where}: its configuration: {keyword}: {brief(found[1])} is not set"
                )
            return environment[found[1]]

        parts = re.split(r"(\$\{[^}]*\})", text)
        return "".join(
            _VARIABLE.sub(value, part) if at % 2 else self.expand(keyword, part, OF_PATHS)
            for at, part in enumerate(parts)
        )
