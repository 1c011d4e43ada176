"""Reads what ``~/.ssh/config`` says of a host.

OpenSSH's own client is asked (``ssh -G``), so Include, Match, tokens and defaults mean
exactly what they mean to ``ssh``. Where it is not installed, paramiko reads the file,
and a file that paramiko would misread is refused.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slurm.errors import LinkRefusedError, TransportError
from slurm.ssh.names import OF_PROXY, Place, check_host, check_user
from slurm.ssh.plain_config import read_plainly
from supervisor.errors import brief
from supervisor.system.small_file import check_small

_ASK_TIMEOUT_S = 20.0
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_SYSTEM_KNOWN_HOSTS = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))
_NOISE = "Pseudo-terminal"
_EXPANDED = " by ssh"
"""Marks an answer of ``ssh -G``, which has replaced the tokens of UserKnownHostsFile."""


@dataclass(frozen=True)
class HostSettings:
    """How a host is reached, and how we log in there.

    Attributes
    ----------
    alias : str
        The name that the user gave.
    hostname : str
        Its name or address on the network.
    port : int
        The port of its sshd.
    user : str
        The user name there.
    identity_files : tuple of Path
        Private keys, whether they exist or not.
    identities_only : bool
        Offer only these keys, even if the agent has more.
    use_agent : bool
        Whether to use the agent.
    may_prompt : bool
        Whether the user may be asked for a password; not with ``BatchMode``.
    known_hosts : tuple of Path
        Files with the host keys.
    host_key_alias : str
        The name to look its host key up by; empty: its own.
    proxy_jump, proxy_command : str
        The way there; empty: a direct connection.
    revoked_host_keys : tuple of Path
        Files with host keys that must not be trusted.
    connect_timeout_s : float or None
        Time limit for a connection, in s; None: not configured.
    """

    alias: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    use_agent: bool = True
    may_prompt: bool = True
    known_hosts: tuple[Path, ...] = ()
    host_key_alias: str = ""
    proxy_jump: str = ""
    proxy_command: str = ""
    revoked_host_keys: tuple[Path, ...] = ()
    connect_timeout_s: float | None = None


@dataclass(frozen=True)
class Destination:
    """A host as the user gives it: ``host``, ``user@host`` or ``user@host:port``."""

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Parse a destination.

        Raises
        ------
        LinkRefusedError
            If it is not valid.
        """
        user, _, place = text.strip().rpartition("@")
        bracketed = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?", place)
        if bracketed:
            host, port = bracketed.groups()
        elif place.count(":") == 1:
            host, port = place.split(":")
        else:  # a bare IPv6 address has many colons and no port
            host, port = place, None
        if not host or (user == "" and "@" in text):
            raise LinkRefusedError(f"not a host: {text!r}: give host, user@host or user@host:port")
        check_host(f"ssh {brief(text)}", host)
        check_user(f"ssh {brief(text)}", user)
        if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
            raise LinkRefusedError(f"not a port: {port!r} in {text!r}")
        return cls(host, user, None if port is None else int(port))


def route(destination: str, look_up: Callable[[Destination], HostSettings]) -> list[HostSettings]:
    """Return the hosts on the way, the destination last.

    Each but the first is reached through the one before it, so only the first can
    have a ProxyCommand.
    """
    return _route(Destination.parse(destination), look_up, frozenset())


def _route(
    destination: Destination,
    look_up: Callable[[Destination], HostSettings],
    seen: frozenset[str],
) -> list[HostSettings]:
    settings = look_up(destination)
    jumps = [Destination.parse(jump) for jump in settings.proxy_jump.split(",") if jump]
    seen = seen | {destination.host}
    # with ProxyJump under "Host *" the first host would go through itself
    if not jumps or jumps[0].host in seen:
        return [settings]
    between = [_straight(look_up(jump)) for jump in jumps[1:]]
    return [*_route(jumps[0], look_up, seen), *between, _straight(settings)]


def _straight(settings: HostSettings) -> HostSettings:
    return replace(settings, proxy_jump="", proxy_command="")


def settings_for(destination: Destination, config: Path | None = None) -> HostSettings:
    """Return what the configuration says of a host.

    Parameters
    ----------
    destination : Destination
        The host; its user and port override the configuration.
    config : Path, optional
        The file to read; default: the user's and the system's.

    Raises
    ------
    LinkRefusedError
        If the configuration cannot be read or parsed; names file and line.
    TransportError
        If reading it takes too long, because a ``Match exec`` hangs.
    """
    if config is not None and not os.access(config, os.R_OK):
        raise LinkRefusedError(f"ssh {destination.host}: {config} cannot be read")
    _check_file(destination, config or Path.home() / ".ssh" / "config")
    program = shutil.which("ssh")
    if program is None:
        return _as_paramiko_reads_it(destination, config)
    return _settings(destination, _ask_openssh(program, destination, config))


def _check_file(destination: Destination, config: Path) -> None:
    """Refuse what has no end: ``ssh`` would read a line of it until the memory is full."""
    try:
        check_small(config)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LinkRefusedError(f"ssh {destination.host}: {config} {error.strerror}") from None


def _ask_openssh(
    program: str, destination: Destination, config: Path | None
) -> dict[str, list[str]]:
    where = f"ssh {destination.host}"
    argv = [program, "-T", "-G", *(["-F", str(config)] if config else [])]
    argv += ["-l", destination.user] if destination.user else []
    argv += ["-p", str(destination.port)] if destination.port else []
    try:
        code, out, err = _answer([*argv, "--", destination.host])
    except subprocess.TimeoutExpired:
        raise TransportError(
            f"{where}: its configuration was not read within {_ASK_TIMEOUT_S:g} s "
            "(does a Match exec hang?)",
            may_have_run=False,
        ) from None
    except OSError as error:
        raise LinkRefusedError(f"{where}: {program}: {error.strerror}") from None
    if code != 0:
        said = [line for line in err.splitlines() if not line.startswith(_NOISE)]
        raise LinkRefusedError(f"{where}: {said[0] if said else 'ssh -G failed'}")
    found: dict[str, list[str]] = {_EXPANDED: []}
    for line in out.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key.lower(), []).append(value)
    return found


def _answer(argv: Sequence[str]) -> tuple[int, str, str]:
    """Run a program; when it is too slow, kill it with all it has started."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=_ASK_TIMEOUT_S)
        except BaseException:
            # a program of Match exec holds our pipes: waiting for ssh alone would not end
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, out, err


def _as_paramiko_reads_it(destination: Destination, config: Path | None) -> HostSettings:
    file = config or Path.home() / ".ssh" / "config"
    where = f"ssh {destination.host}"
    found = read_plainly(where, file, destination.host, of_user=config is None)
    home = Path.home() / ".ssh"
    found.setdefault("identityfile", [str(home / name) for name in _DEFAULT_KEYS])
    found.setdefault("userknownhostsfile", [str(home / "known_hosts")])
    if destination.user:
        found["user"] = [destination.user]
    if destination.port:
        found["port"] = [str(destination.port)]
    return _settings(destination, found)


def _settings(destination: Destination, found: Mapping[str, Sequence[str]]) -> HostSettings:
    def first(key: str, default: str = "") -> str:
        value = found.get(key, [default])[0].strip()
        return "" if value.lower() == "none" else value

    where = f"ssh {destination.host}"
    place = Place(
        where,
        destination.host,
        check_host(where, first("hostname") or destination.host),
        first("port") or "22",
        check_user(where, first("user") or pwd.getpwuid(os.getuid()).pw_name),
        first("hostkeyalias"),
        first("proxyjump"),
    )

    def paths(keyword: str, texts: Sequence[str]) -> tuple[Path, ...]:
        return tuple(
            Path(place.expand_path(keyword, _from_home(text), os.environ))
            for text in texts
            if text and text.lower() != "none"
        )

    limit = first("connecttimeout")
    try:
        return HostSettings(
            alias=destination.host,
            hostname=place.hostname,
            port=int(place.port),
            user=place.user,
            identity_files=paths("IdentityFile", found.get("identityfile", ())),
            identities_only=first("identitiesonly") == "yes",
            use_agent=found.get("identityagent", [""])[0].lower() != "none",
            may_prompt=first("batchmode") != "yes",
            known_hosts=_known_hosts(found, paths),
            host_key_alias=place.host_key_alias,
            proxy_jump=place.expand("ProxyJump", place.jump, OF_PROXY),
            proxy_command=place.expand_command(first("proxycommand")),
            revoked_host_keys=paths("RevokedHostKeys", found.get("revokedhostkeys", ())),
            connect_timeout_s=float(limit) if limit else None,
        )
    except ValueError as error:
        raise LinkRefusedError(f"{where}: its configuration: {error}") from None


def _known_hosts(
    found: Mapping[str, Sequence[str]], paths: Callable[[str, Sequence[str]], tuple[Path, ...]]
) -> tuple[Path, ...]:
    of_user = found.get("userknownhostsfile", [""])[0].split()
    of_system = found.get("globalknownhostsfile")
    system = _SYSTEM_KNOWN_HOSTS if of_system is None else tuple(map(Path, of_system[0].split()))
    if _EXPANDED in found:
        return (*(Path(_from_home(file)) for file in of_user if file != "none"), *system)
    return (*paths("UserKnownHostsFile", of_user), *system)


def _from_home(path: str) -> str:
    """Replace a tilde, before any token is replaced: a user's name may be one."""
    return str(Path(path).expanduser()) if path.startswith("~") else path
