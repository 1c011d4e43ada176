from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.ipc import control_socket, messages
from supervisor.ipc.control_socket import MAX_CLIENTS, ControlSocket, connect
from supervisor.records import registry

pytestmark = pytest.mark.usefixtures("own_state", "no_leaks")

RUN = "20240101-000000-abcdef"


class Served:
    """A control socket and what it was told."""

    def __init__(self) -> None:
        self.heard: list[messages.Message] = []
        self.socket = ControlSocket(RUN, self.answer)
        self.clients: list[socket.socket] = []

    def answer(self, message: messages.Message) -> messages.Message | None:
        self.heard.append(message)
        if isinstance(message, messages.AskStatus):
            return messages.Status(RUN, "running", 1, 2, [3])
        return None

    def turn(self) -> None:
        """What the warden's loop does when something is readable."""
        self.clients += self.socket.accept()
        ready, _, _ = select.select(self.clients, [], [], 0)
        for client in ready:
            if not self.socket.serve(client):
                self.clients.remove(client)
                client.close()


@pytest.fixture
def served() -> Iterator[Served]:
    it = Served()
    yield it
    it.socket.close()


def call() -> socket.socket:
    line = connect(RUN)
    assert line is not None
    line.settimeout(60)
    return line


def test_a_question_is_answered(served: Served) -> None:
    with call() as line:
        messages.send(line, messages.AskStatus())
        served.turn()
        served.turn()
        assert messages.receive(line)[0] == messages.Status(RUN, "running", 1, 2, [3])
    served.turn()
    assert served.clients == []


def test_a_request_is_heard_and_the_end_is_told_to_all(served: Served) -> None:
    with call() as one, call() as two:
        messages.send(one, messages.RequestStop(2, "because"))
        served.turn()
        served.turn()
        assert served.heard == [messages.RequestStop(2, "because")]
        ended = messages.RunEnded("stopped", "because", 0.1, [])
        served.socket.broadcast(ended)
        assert messages.receive(one)[0] == messages.receive(two)[0] == ended
    served.turn()


@pytest.mark.parametrize(
    "packet",
    [b"\0", b"{", b"[]", b'{"kind": 3}', b'{"kind": []}', b'{"kind": "AskStatus", "x": 1}',
     b"\xff" * 1000, b"[" * 60_000, b"x" * 70_000],
    ids=lambda packet: packet[:20].decode("latin-1"),
)  # fmt: skip
def test_who_speaks_nonsense_is_hung_up_on_and_others_are_not(
    served: Served, packet: bytes
) -> None:
    with call() as good, call() as bad:
        bad.send(packet)
        served.turn()
        served.turn()
        assert bad.recv(100) == b""
        messages.send(good, messages.AskStatus())
        served.turn()
        assert isinstance(messages.receive(good)[0], messages.Status)
    served.turn()


def test_descriptors_from_outside_are_not_kept(served: Served) -> None:
    with call() as line, Path(os.devnull).open() as gift:
        socket.send_fds(line, [messages.encode(messages.AskStatus())], [gift.fileno()] * 4)
        socket.send_fds(line, [b"nonsense"], [gift.fileno()] * 4)
        served.turn()
        served.turn()
        served.turn()
    assert served.clients == []


def test_too_many_callers_are_hung_up_on(served: Served) -> None:
    lines = []
    for _ in range(MAX_CLIENTS):
        lines.append(call())
        served.turn()
    with call() as one_more:
        served.turn()
        assert one_more.recv(100) == b""
    assert len(served.clients) == MAX_CLIENTS
    lines.pop().close()
    served.turn()
    with call() as welcome:
        messages.send(welcome, messages.AskStatus())
        served.turn()
        served.turn()
        assert isinstance(messages.receive(welcome)[0], messages.Status)
    for line in lines:
        line.close()
    served.turn()
    assert served.clients == []


def test_a_caller_that_does_not_read_blocks_no_other(served: Served) -> None:
    with call() as deaf:
        for _ in range(2000):
            messages.send(deaf, messages.AskStatus())
            served.turn()
        served.socket.broadcast(messages.RunEnded("stopped", "", 0.0, []))
    served.turn()


def test_no_process_listens() -> None:
    assert connect("no-such-run") is None
    registry.socket_path(RUN).touch()
    assert connect(RUN) is None


def test_the_name_goes_with_the_socket(served: Served) -> None:
    path = registry.socket_path(RUN)
    assert path.exists()
    child = os.fork()
    if child == 0:
        served.socket.close(unlink=False)
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()
    served.socket.close()
    assert not path.exists()
    assert connect(RUN) is None


def test_a_name_that_is_another_s_by_now_is_left_alone(served: Served) -> None:
    served.socket.close()
    after = ControlSocket(RUN, lambda _: None)
    served.socket.close()
    call().close()
    after.close()


def test_a_very_long_directory_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An address holds 107 bytes; a path may be longer."""
    deep = tmp_path_factory.mktemp("d") / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    it = Served()
    with call():
        it.turn()
    it.turn()
    it.socket.close()


def test_the_kernel_says_who_calls(served: Served) -> None:
    with call() as line:
        assert control_socket.peer_uid(line) == os.getuid()
    served.turn()


STRANGER = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if sys.argv[1] == "call":
    sock.connect(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.read()
    print(sock.recv(100), flush=True)
else:
    sock.bind(sys.argv[2])
    sock.listen()
    print("ready", flush=True)
    sys.stdin.read()
"""


def stranger(what: str, path: str) -> subprocess.Popen[str]:
    base = getattr(sys, "_base_executable", sys.executable)
    try:
        started = subprocess.Popen(
            [base, "-I", "-c", STRANGER, what, path], user=65534, group=65534, extra_groups=[],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
    except PermissionError:
        started = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-c", STRANGER, what, path], user=65534, group=65534,
            extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
    return started


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to play another user")


@pytest.fixture
def open_to_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A runtime directory whose permissions do not keep strangers out."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="allstop-test-") as base:
        Path(base).chmod(0o777)
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
        monkeypatch.setattr(registry, "private_dir", _merely_made)
        yield base


def _merely_made(path):
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
    return path


@needs_root
def test_a_stranger_who_calls_is_hung_up_on(open_to_all: str) -> None:
    it = Served()
    path = registry.socket_path(RUN)
    path.chmod(0o777)
    with stranger("call", str(path)) as them:
        if them.stdout.readline() != "ready\n":
            pytest.skip("no Python here that another user may run")
        it.turn()
        assert it.clients == []
        them.stdin.close()
        assert them.stdout.readline() == "b''\n"
    it.socket.close()


@needs_root
def test_a_stranger_who_listens_is_not_talked_to(open_to_all: str) -> None:
    path = registry.socket_path(RUN)
    with stranger("listen", str(path)) as them:
        if them.stdout.readline() != "ready\n":
            pytest.skip("no Python here that another user may run")
        with pytest.raises(ConfigError, match="another user"):
            connect(RUN)
        them.stdin.close()
