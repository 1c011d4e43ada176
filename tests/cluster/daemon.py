"""Daemons that belong to a directory: started clean, struck at will, gone without trace."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from supervisor.system.process import Identity, descendants
from tests.support.waiting import DEADLINE_S, wait_for

COOKIE = "ALLSTOP_CLUSTER"
"""Environment variable that names the directory a process belongs to."""

PATH_LIMIT = 80
"""Longest directory whose unix sockets still fit into 107 bytes."""

_MARK = ".made-by-allstop"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# a session of its own, and no signal ignored or blocked because the caller does so: jobs inherit it
_DETACH = """
import os, signal, sys
catchable = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
to_log = (os.POSIX_SPAWN_DUP2, 2, 1)
print(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, setsid=True,
                      setsigdef=catchable, setsigmask=[], file_actions=[to_log]))
"""


class ClusterError(Exception):
    """Something that is installed did not do what it should; says what its log said last."""


class Home:
    """A private directory, and every process that belongs to it."""

    def __init__(self, directory: Path) -> None:
        if len(str(directory)) > PATH_LIMIT:
            raise ClusterError(
                f"{directory} is too long for unix sockets: at most {PATH_LIMIT} characters"
            )
        self.directory = directory

    def make(self) -> None:
        """Create the directory, readable by us alone; what was left of an earlier one goes."""
        self.clear()
        self.directory.mkdir(mode=0o700, parents=True)
        (self.directory / _MARK).touch()

    def clear(self) -> None:
        """Kill every process that belongs here, then remove the directory."""
        self._check_ours()
        wait_for(
            lambda: not self._strike(),
            f"everything of {self.directory} gone",
            tell=lambda: str(self.processes()),
        )
        if self.directory.is_dir():
            shutil.rmtree(self.directory)

    def processes(self) -> list[Identity]:
        """Living processes of this directory, and everything they have started.

        A daemon is known by its file, SLURM's keepers of jobs by their sockets (they wipe
        their environment), the rest by the cookie or by being in a job of this cluster.
        """
        known = {*self._daemons(), *self._listening(), *self._marked()}
        pids = known.union(*map(descendants, known)) - {os.getpid()}
        return sorted(i for i in map(Identity.of, pids) if i is not None and i.alive)

    def _strike(self) -> list[Identity]:
        """Kill all there is; return what that was."""
        frozen: set[Identity] = set()
        while new := set(self.processes()) - frozen:
            for identity in new:
                identity.send(signal.SIGSTOP)  # from now on it starts nothing that we would miss
            frozen |= new
        for identity in frozen:
            identity.send(signal.SIGKILL)
        # one that is on its way out has neither environment nor sockets any more, and is not found
        wait_for(lambda: not any(identity.alive for identity in frozen), "the killed ones gone")
        return list(frozen)

    def _daemons(self) -> list[int]:
        identities = map(_read_identity, self.directory.rglob("*.pid"))
        return [i.pid for i in identities if i is not None and i.alive]

    def _listening(self) -> list[int]:
        """Pids of those who have a unix socket in this directory."""
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        ours = {f"socket:[{w[6]}]" for w in lines if len(w) == 8 and self._owns(w[7])}
        found = []
        for directory in Path("/proc").glob("[0-9]*/fd") if ours else ():
            with contextlib.suppress(OSError):
                if any(str(fd.readlink()) in ours for fd in directory.iterdir()):
                    found.append(int(directory.parent.name))
        return found

    def _marked(self) -> list[int]:
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                items = file.read_text(errors="replace").split("\0")
                variables = dict(item.partition("=")[::2] for item in items)
                job_of = variables.get("SLURM_CONF", "") if "SLURM_JOB_ID" in variables else ""
                if self._owns(variables.get(COOKIE, "")) or self._owns(job_of):
                    found.append(int(file.parent.name))
        return found

    def _owns(self, path: str) -> bool:
        return Path(path).is_relative_to(self.directory)

    def _check_ours(self) -> None:
        """Refuse a directory that was not made here: what lives in ``/tmp`` is not ours."""
        names = {entry.name for entry in self.directory.glob("*")}
        if names and _MARK not in names:
            raise ClusterError(f"{self.directory} was not made by this: it is left alone")


class Daemon:
    """A program that runs in the background, and can be frozen, stopped and killed.

    It is no child of the caller's and inherits nothing: no descriptor, no lock, no terminal,
    no variable.

    Attributes
    ----------
    harmed : bool
        Whether it was frozen, stopped or killed; the owner clears it once all is well again.
    before_kill : callable
        Called before it is killed.
    """

    def __init__(
        self, directory: Path, name: str, argv: list[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.argv = argv
        self.log = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.pid"
        self.harmed = False
        self.before_kill: Callable[[], object] = lambda: None
        self._env = clean_environment(PATH=_SYSTEM_PATH, **{COOKIE: str(directory)}, **env or {})

    @property
    def identity(self) -> Identity | None:
        """The process, while it lives."""
        identity = _read_identity(self._pid_file)
        return identity if identity is not None and identity.alive else None

    def start(self) -> None:
        """Start it unless it lives; :meth:`until` tells when it is ready."""
        if self.identity is not None:
            return
        with self.log.open("ab") as log:
            said = subprocess.run(
                [sys.executable, "-ISc", _DETACH, *self.argv], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, env=self._env, cwd="/", text=True,
            )  # fmt: skip
        identity = Identity.of(int(said.stdout or 0))
        if identity is None:
            raise ClusterError(self._story("has ended"))
        self._pid_file.write_text(f"{identity.pid} {identity.start_time} {identity.boot}\n")

    def until(self, ready: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait for a sign of readiness; if it dies meanwhile or never gives one, say why."""
        try:
            wait_for(lambda: ready() or self.identity is None, what, timeout_s=timeout_s)
        except AssertionError:
            raise ClusterError(self._story(f"did not come to this: {what}")) from None
        if self.identity is None:
            raise ClusterError(self._story("has ended"))

    def freeze(self) -> None:
        """Let it hang: its sockets stay open, it does not answer."""
        self.harmed = True
        if self.identity is not None:
            freeze(self.identity)

    def thaw(self) -> None:
        """Let it continue."""
        if self.identity is not None:
            self.identity.send(signal.SIGCONT)

    def stop(self) -> None:
        """Have it end in order, and wait until it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.before_kill()
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        self.harmed = True
        identity = self.identity
        if identity is not None:
            identity.send(number)
            wait_for(lambda: not identity.alive, f"{self.name} gone")

    def _story(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "\n  ".join([f"{self.name} {what}; {self.log} ends with:", *lines])


def freeze(process: Identity) -> None:
    """Stop a process; return when no thread of it runs any more."""
    process.send(signal.SIGSTOP)
    wait_for(lambda: _threads(process.pid) <= {"T", "t", "Z"}, f"pid {process.pid} stopped")


def _threads(pid: int) -> set[str]:
    """States of a process's threads."""
    found = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            found.add(stat.read_text(errors="replace").rpartition(")")[2].split()[0])
    return found


def clean_environment(**more: str) -> dict[str, str]:
    """What a program needs from our environment to know who and where it is, and no more."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    return kept | {"HOME": str(Path.home()), "USER": user(), "LOGNAME": user()} | more


def user() -> str:
    """Return who we are, whatever the environment claims; the number, if that has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def free_ports(count: int) -> list[int]:
    """Free TCP ports, below those the kernel lends to outgoing connections."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            candidate = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                candidate.bind(("", random.randrange(10_000, 32_000)))
                ports.append(candidate.getsockname()[1])
        return ports


def listens(port: int) -> bool:
    """Whether a process listens on a TCP port of this machine."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(words[1].endswith(f":{port:04X}") and words[3] == "0A" for words in lines)


def base_directory() -> Path:
    """Where clusters are kept: the session's runtime directory, or ``/tmp``."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = 0 < len(runtime) <= PATH_LIMIT // 2 and Path(runtime).is_dir()
    return Path(runtime if usable else "/tmp")


def new_directory() -> Path:
    """Make a short private directory for one cluster among several."""
    return Path(tempfile.mkdtemp(prefix="allstop-", dir=base_directory()))


def _read_identity(file: Path) -> Identity | None:
    try:
        pid, start_time, *boot = file.read_text().split()
    except (OSError, ValueError):
        return None  # not written yet, or removed
    return Identity(int(pid), int(start_time), "".join(boot))
