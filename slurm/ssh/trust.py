"""Whether a server's host key is the known one, and what to do if it is not."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import Any

from slurm.errors import LinkRefusedError
from slurm.ssh.config import HostSettings
from slurm.ssh.host_keys import KnownHosts, Verdict, fingerprint, names_of
from slurm.ssh.revoked import is_revoked

_RSA_NAMES = ("rsa-sha2-512", "rsa-sha2-256")


class HostTrust:
    """The known host keys of one host on the way.

    Parameters
    ----------
    settings : HostSettings
        The host.
    own_file : Path or None
        File with the host keys, instead of the configured ones.
    behind : bool
        Whether the host is reached through another one.

    Raises
    ------
    LinkRefusedError
        If a file with host keys cannot be read.
    """

    def __init__(self, settings: HostSettings, own_file: Path | None, *, behind: bool) -> None:
        self._where = f"ssh {settings.alias}"
        self._settings = settings
        self._file = own_file or next(iter(settings.known_hosts), Path("~/.ssh/known_hosts"))
        self._behind = behind
        self._names = names_of(settings.hostname, settings.port, settings.host_key_alias)
        try:
            self._known = KnownHosts((own_file,) if own_file else settings.known_hosts)
        except OSError as error:
            raise LinkRefusedError(f"{self._where}: {error.filename}: {error.strerror}") from None

    def prefer_known(self, transport: Any) -> None:
        """Ask the server for a key of a kind that is known, if it has one."""
        kinds = self._known.kinds(self._names)
        names = [n for kind in kinds for n in (_RSA_NAMES if kind == "ssh-rsa" else (kind,))]
        options = transport.get_security_options()
        rest = options.key_types
        options.key_types = (
            *(name for name in names if name in rest),
            *(name for name in rest if name not in names),
        )

    def check(self, key: Any) -> None:
        """Refuse a key that is not known to be the host's.

        Raises
        ------
        LinkRefusedError
            If it is unknown, changed or revoked; names the fix.
        """
        kind, blob = key.get_name(), key.asbytes()
        shown = f"{kind} {fingerprint(blob)}"
        self._check_not_revoked(blob, shown)
        finding = self._known.look_up(self._names, kind, blob)
        if finding.verdict is Verdict.REVOKED:
            raise LinkRefusedError(
                f"{self._where}: THE HOST KEY IS REVOKED ({finding.line}): {shown} must not be "
                "trusted"
            )
        if finding.verdict is Verdict.CHANGED:
            file = finding.line.rpartition(", line ")[0]
            raise LinkRefusedError(
                f"{self._where}: THE HOST KEY HAS CHANGED: the server shows {shown}, and "
                f"{finding.line} has another one. The connection may be intercepted. Ask the "
                "host's administrator; if the new key is right: "
                f"{shlex.join(['ssh-keygen', '-R', self._names[0], '-f', file])}"
            )
        if finding.verdict is Verdict.UNKNOWN:
            raise LinkRefusedError(self._how_to_trust(shown))

    def _check_not_revoked(self, blob: bytes, shown: str) -> None:
        for file in self._settings.revoked_host_keys:
            try:
                revoked = is_revoked(file, blob)
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise LinkRefusedError(
                    f"{self._where}: no host key is trusted while {file} (RevokedHostKeys) "
                    f"cannot be read: {why}"
                ) from None
            if revoked:
                raise LinkRefusedError(
                    f"{self._where}: THE HOST KEY IS REVOKED ({file}): {shown} must not be trusted"
                )

    def _how_to_trust(self, shown: str) -> str:
        settings, name = self._settings, self._names[0]
        add = f"ssh-keyscan -p {settings.port} {settings.hostname} >> {_short(self._file)}"
        if self._behind or settings.proxy_command or settings.host_key_alias:
            add = f"ssh {settings.alias}"  # ssh-keyscan would not reach it, or not by this name
        authority = ""
        if self._known.has_authority(self._names):
            authority = " (a @cert-authority line is not enough here)"
        return (
            f"{self._where}: the host key of {name} is not known{authority}. It is {shown}: if "
            f"the host's administrator confirms it, add it with: {add}"
        )


def _short(file: Path) -> str:
    with contextlib.suppress(ValueError):
        return f"~/{file.relative_to(Path.home())}"
    return str(file)
