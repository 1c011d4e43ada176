"""What a server says over SFTP is not believed: names stay in their directory, sizes bounded."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.errors import LinkRefusedError
from slurm.ssh import conversation
from slurm.ssh import transport as module
from slurm.ssh.transport import SshTransport
from slurm.transport import LARGEST_FILE_BYTES, Answer
from supervisor.lifecycle.staging import RemoteCopy
from supervisor.records import rundir
from supervisor.records.ledger import Ledger

paramiko = pytest.importorskip("paramiko")

RUN = "20240229-120000-abcdef"
KEY = paramiko.ECDSAKey.generate()


class Says(paramiko.SFTPServerInterface):  # type: ignore[misc]  # paramiko has no types
    """A server that lists and gives what a test wants."""

    names: tuple[str, ...] = ()
    size = 5
    asked: list[str]

    def list_folder(self, path: str) -> Any:
        found = []
        for name in self.names:
            found.append(attributes := paramiko.SFTPAttributes())
            attributes.filename, attributes.st_size, attributes.st_mode = name, self.size, 0o100600
        return found

    def open(self, path: str, flags: int, attr: Any) -> Any:
        self.asked.append(path)
        return Content(self.size)


class Content(paramiko.SFTPHandle):  # type: ignore[misc]  # paramiko has no types
    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def stat(self) -> Any:
        facts = paramiko.SFTPAttributes()
        facts.st_size = self._size
        return facts

    def read(self, offset: int, length: int) -> bytes:
        return b"x" * length  # without end, whatever size it says


class Anybody(paramiko.ServerInterface):  # type: ignore[misc]  # paramiko has no types
    def check_auth_none(self, username: str) -> int:
        return int(paramiko.AUTH_SUCCESSFUL)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
        threading.Thread(target=flood, args=(channel,), daemon=True).start()
        return True


def flood(channel: Any) -> None:
    """Print without end."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while True:
            channel.sendall(b"x" * 2**15)


class HostileTransport(SshTransport):
    """Reaches a server of :class:`Says`, without a network and without a host key."""

    def __init__(self, says: type[Says]) -> None:
        super().__init__("c")
        self._says = says

    @contextlib.contextmanager
    def _session(self, start: Any, deadline: object) -> Iterator[Any]:
        ours, theirs = socket.socketpair()
        with paramiko.Transport(theirs) as server, paramiko.Transport(ours) as client:
            server.add_server_key(KEY)
            server.set_subsystem_handler("sftp", paramiko.SFTPServer, self._says)
            server.start_server(threading.Event(), Anybody())
            client.start_client(timeout=10.0)
            client.auth_none("me")
            channel = client.open_session(timeout=10.0)
            start(channel)
            yield Alive, channel


class AtHome(HostileTransport):
    """One that says where the home directory is."""

    def run(self, argv: Any, **_: Any) -> Answer:
        return Answer(0, "/home/me", "")


class Alive:
    alive = True
    suspect = False


def server(*names: str, size: int = 5) -> type[Says]:
    return type("Server", (Says,), {"names": names, "size": size, "asked": []})


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "a/b", "..", "x\0y", "a/../../b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with contextlib.closing(HostileTransport(server("worker-0000.bin", name))) as transport:
        if name == "..":  # paramiko leaves it out
            assert transport.list("/d") == ("worker-0000.bin",)
            return
        with pytest.raises(LinkRefusedError, match=r"\A[^\n\0]*no name of a file[^\n\0]*\Z"):
            transport.list("/d")


def test_a_listing_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NAMES", 100)
    with (
        contextlib.closing(HostileTransport(server(*map(str, range(150))))) as transport,
        pytest.raises(LinkRefusedError, match="more than 100 entries"),
    ):
        transport.list("/d")


def test_a_size_beyond_all_measure_is_not_believed() -> None:
    with (
        contextlib.closing(HostileTransport(server(size=LARGEST_FILE_BYTES + 1))) as transport,
        pytest.raises(OSError, match="File too large"),
    ):
        transport.get("/f")


def test_no_more_is_read_than_the_server_said() -> None:
    with contextlib.closing(HostileTransport(server(size=100_000))) as transport:
        assert transport.get("/f") == b"x" * 100_000


def test_only_what_a_shard_writes_is_fetched_and_only_into_the_run_directory(
    tmp_path: Path,
) -> None:
    run_dir = rundir.create(tmp_path / "run")
    (run_dir / rundir.RUN_FILE).write_text(f'{{"run_id": "{RUN}"}}')
    with Ledger(run_dir / rundir.LEDGER_FILE) as ledger:
        ledger.append("copy_made", address="ssh:c", path="/elsewhere")
    odd = ("00001", "worker-0000.bin", "worker.log", "run.json", ".lock", "report.json", "٣٣٣٣٣",
           "worker-٣.bin", "a\nb.log", "\x1b[2J.log", "." * 20 + ".log")  # fmt: skip
    says = server(*odd)
    with contextlib.closing(AtHome(says)) as transport:
        RemoteCopy(run_dir, transport).fetch()
    here = f"/home/me/.allstop/runs/{RUN}"
    assert says.asked == [f"{here}/shards/00001/journal/worker-0000.bin", f"{here}/logs/worker.log"]
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "journal", "ledger", "logs", "run.json", "shards",
    ]  # fmt: skip


def test_output_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "LARGEST_OUTPUT_BYTES", 2**20)
    with (
        contextlib.closing(HostileTransport(server())) as transport,
        pytest.raises(LinkRefusedError, match="squeue prints more than"),
    ):
        transport.run(["squeue"], timeout_s=30.0)
