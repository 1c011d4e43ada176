"""The control socket of a run, for requests from outside: ``stop`` and ``status``.

It lies in a directory that only the user can enter, and the kernel identifies the caller
(``SO_PEERCRED``): other users than the owner and root are refused. The warden listens, so
a run can be stopped while its front hangs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from supervisor.errors import ConfigError, ProtocolError
from supervisor.ipc import messages
from supervisor.records import registry

MAX_CLIENTS = 16
_UCRED = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED

Answer = Callable[[messages.Message], messages.Message | None]


class ControlSocket:
    """The warden's end: accepts clients, answers them, and reports the end of the run."""

    def __init__(self, run_id: str, answer: Answer) -> None:
        self._answer = answer
        self._clients: list[socket.socket] = []
        self._path = registry.socket_path(run_id)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)
        try:
            os.fchmod(self.listener.fileno(), 0o600)  # what bind makes, whatever the umask
            with _reachable(self._path) as address:
                self.listener.bind(address)
            self.listener.listen(MAX_CLIENTS)
        except OSError:
            self.listener.close()
            raise

    def accept(self) -> list[socket.socket]:
        """Accept waiting clients; other users, and clients beyond the limit, are disconnected."""
        welcome: list[socket.socket] = []
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return welcome
            client.setblocking(False)
            if peer_uid(client) in (os.getuid(), 0) and len(self._clients) < MAX_CLIENTS:
                self._clients.append(client)
                welcome.append(client)
            else:
                client.close()

    def serve(self, client: socket.socket) -> bool:
        """Handle one message; False when the client is gone or sent an invalid message."""
        try:
            message, fds = messages.receive(client)
        except BlockingIOError:
            return True
        except (ProtocolError, OSError):
            message, fds = None, []
        for fd in fds:
            os.close(fd)
        if message is None:
            self._clients.remove(client)
            return False
        reply = self._answer(message)
        if reply is not None:
            messages.send(client, reply)
        return True

    def broadcast(self, message: messages.Message) -> None:
        """Send a message to every connected client."""
        for client in self._clients:
            messages.send(client, message)

    def close(self, *, unlink: bool = True) -> None:
        """Disconnect all clients; ``unlink=False`` in a forked child, which does not own it.

        Harmless when repeated: another process may own the name by then.
        """
        if self.listener.fileno() < 0:
            return
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.listener.close()
        if unlink:
            self._path.unlink(missing_ok=True)


def connect(run_id: str, timeout_s: float = 5.0) -> socket.socket | None:
    """Connect to a run's warden; None when no process listens.

    Raises
    ------
    ConfigError
        If a process of another user listens there.
    """
    path = registry.socket_path(run_id)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout_s)
    try:
        with _reachable(path) as address:
            sock.connect(address)
    except OSError:
        sock.close()
        return None
    if peer_uid(sock) not in (os.getuid(), 0):
        sock.close()
        raise ConfigError(f"{path} belongs to a process of another user: not connecting to it")
    return sock


def is_running(run_id: str) -> bool:
    """Whether a run's front or warden is alive: by the registry, or because it answers."""
    if any(entry.alive for entry in registry.entries() if entry.run_id == run_id):
        return True
    return is_answering(run_id)


def is_answering(run_id: str) -> bool:
    """Whether a process listens on a run's control socket, whatever the registry says."""
    line = connect(run_id)
    if line is None:
        return False
    line.close()
    return True


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process at the other end, from the kernel."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


class _reachable(contextlib.AbstractContextManager[str]):
    """Address a socket by its directory's descriptor: ``sun_path`` holds only 107 bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
