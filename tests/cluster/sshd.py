"""A real sshd on loopback, with keys of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from supervisor.system.process import Identity, command_name, descendants
from tests.cluster.daemon import COOKIE, Daemon, Home, clean_environment, free_ports, freeze, user

PASSPHRASE = "correct horse"
"""Of the second key."""

ALIAS = "cluster"
"""Under which ``ssh -F ssh_config`` finds it."""


class Sshd:
    """An sshd that lives in one directory.

    Attributes
    ----------
    port : int
        On 127.0.0.1.
    user, key, encrypted_key : str, Path, Path
        Who may come in, with either key; :data:`PASSPHRASE` opens the second one.
    known_hosts, ssh_config : Path
        What a client needs to know it by: ``ssh -F {ssh_config} cluster``.
    listener : Daemon
        Takes new connections; each of these is a process of its own.
    """

    def __init__(
        self, directory: Path, env: Mapping[str, str] | None = None, banner: str = ""
    ) -> None:
        self._home = Home(directory)
        # bash leaves the user's startup files alone if it does not look like the first shell
        self._env = {**(env or {}), COOKIE: str(directory), "SHLVL": "1"}
        self._banner = banner
        self.directory = directory
        self.port = 0
        self.user = user()
        self.key = directory / "id"
        self.encrypted_key = directory / "id_encrypted"
        self.host_key = directory / "host_key"
        self.known_hosts = directory / "known_hosts"
        self.ssh_config = directory / "config"
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
        options = ["-D", "-e", "-f", str(directory / "sshd_config")]
        self.listener = Daemon(directory, "sshd", [program, *options])

    def up(self) -> None:
        """Start it; return when it listens. In vain: nothing is left."""
        self._home.make()
        try:
            self._furnish()
            self.start()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Kill it, every connection and every command, and remove the directory."""
        self._home.clear()

    def start(self) -> None:
        """Start the listener, on the same port as before."""
        self.listener.log.write_bytes(b"")
        self.listener.start()
        self.listener.until(
            lambda: b"Server listening" in self.listener.log.read_bytes(), "listening"
        )

    def kill(self) -> None:
        """Kill listener and connections, as when the host dies; its commands live on."""
        self.listener.freeze()
        self.drop()
        self.listener.kill()

    def connections(self) -> list[Identity]:
        """Processes of the connections that are open now."""
        listener = self.listener.identity
        pids = descendants(listener.pid) if listener else []
        # the commands are below them; from 9.8 on theirs is sshd-session
        of_sshd = [pid for pid in pids if command_name(pid).startswith("sshd")]
        return [identity for identity in map(Identity.of, of_sshd) if identity is not None]

    def drop(self) -> None:
        """Kill every connection; the commands may live on."""
        for connection in self.connections():
            connection.send(signal.SIGKILL)

    def freeze(self) -> None:
        """Let the host hang: connections stay open, nothing answers, none is accepted."""
        for process in self._all():
            freeze(process)

    def thaw(self) -> None:
        """Let it continue."""
        for process in self._all():
            process.send(signal.SIGCONT)

    def trust(self, alias: str, port: int) -> None:
        """Let clients know it by another name and port too: the proxy's before it."""
        key = self.host_key.with_suffix(".pub").read_text().rsplit(" ", 1)[0]
        with self.known_hosts.open("a") as known:
            known.write(f"[127.0.0.1]:{port} {key}\n")
        with self.ssh_config.open("a") as config:
            config.write(_alias(self, alias, port))

    def run(
        self, command: str, alias: str = ALIAS, timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command by ``ssh``."""
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), alias, command], env=clean_environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def _all(self) -> list[Identity]:
        listener = self.listener.identity
        return [*([listener] if listener else []), *self.connections()]

    def _furnish(self) -> None:
        """Write keys and configuration."""
        _make_key(self.host_key)
        _make_key(self.key)
        _make_key(self.encrypted_key, PASSPHRASE)
        publics = (key.with_suffix(".pub") for key in (self.key, self.encrypted_key))
        (self.directory / "authorized_keys").write_text("".join(p.read_text() for p in publics))
        (self.directory / "banner").write_text(self._banner)
        (self.port,) = free_ports(1)
        (self.directory / "sshd_config").write_text(_sshd_config(self, self._env))
        self.trust(ALIAS, self.port)
        if os.geteuid() == 0:  # where root's sshd locks itself in; it insists
            with contextlib.suppress(FileExistsError):
                Path("/run/sshd").mkdir(mode=0o755)


def why_no_login() -> str:
    """Say why sshd would not let us in, whatever the key; empty: it would."""
    try:
        shell = pwd.getpwuid(os.geteuid()).pw_shell or "/bin/sh"
    except KeyError:
        return f"sshd admits no user without a name, such as uid {os.geteuid()}"
    if Path(shell).name in {"nologin", "false"} or not os.access(shell, os.X_OK):
        return f"sshd runs no command for {user()}, whose login shell is {shell}"
    return ""


def _is_locked() -> bool:
    """Whether we are a root without a password, whom sshd lets in only by PAM."""
    with contextlib.suppress(OSError):
        fields = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
        return any(words[0] == user() and words[1].startswith("!") for words in fields)
    return False  # who may not read it, neither may the sshd


def _make_key(path: Path, passphrase: str = "") -> None:
    # one round of key derivation: nothing here has to be hard to guess
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-C", "", "-f", path],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _sshd_config(sshd: Sshd, env: Mapping[str, str]) -> str:
    directory = sshd.directory
    # only the first SetEnv line counts
    variables = " ".join(f'"{name}={value}"' for name, value in env.items())
    return f"""\
ListenAddress 127.0.0.1
Port {sshd.port}
HostKey {sshd.host_key}
AuthorizedKeysFile {directory}/authorized_keys
Banner {directory}/banner
SetEnv {variables}
PidFile none
StrictModes no
UsePAM {"yes" if _is_locked() else "no"}
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
MaxSessions 100
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
"""


def _alias(sshd: Sshd, alias: str, port: int) -> str:
    return f"""\
Host {alias}
  HostName 127.0.0.1
  Port {port}
  User {sshd.user}
  IdentityFile {sshd.key}
  IdentitiesOnly yes
  IdentityAgent none
  BatchMode yes
  UserKnownHostsFile {sshd.known_hosts}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""
