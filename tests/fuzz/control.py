"""Coverage-guided fuzzing of the control socket: its parser, and a socket that serves strangers.

``pip install atheris`` first, then ``python tests/fuzz/messages.py -max_total_time=600``: anything
but a refusal in order is reported with the packet that caused it. Not collected by pytest.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from supervisor.errors import ProtocolError
    from supervisor.ipc import control_socket, messages

RUN = "20000101-000000-abcdef"


class Stranger:
    """A control socket of a run that is not there, and a caller that says anything."""

    def __init__(self) -> None:
        self.heard: list[messages.Message] = []
        self.served = control_socket.ControlSocket(RUN, self._answer)
        self.line = self._call()

    def _answer(self, message: messages.Message) -> messages.Message | None:
        self.heard.append(message)
        return messages.Status(RUN, "running", 0, 1, [])

    def _call(self) -> tuple[socket.socket, socket.socket]:
        caller = control_socket.connect(RUN)
        assert caller is not None
        (client,) = self.served.accept()
        return caller, client

    def say(self, packet: bytes) -> None:
        """One packet, with a descriptor every other time; the answer is read."""
        caller, client = self.line
        fds = [caller.fileno()] * (len(packet) % 2)
        try:
            socket.send_fds(caller, [packet], fds, socket.MSG_DONTWAIT)
        except OSError:
            return  # longer than the socket takes
        before = n_descriptors()
        self.heard.clear()
        stays = self.served.serve(client)
        assert n_descriptors() <= before, "a descriptor was taken in"
        assert stays == bool(self.heard), "nonsense was heard, or sense was not"
        if stays:
            messages.receive(caller)
        else:
            caller.close()
            client.close()
            self.line = self._call()


def n_descriptors() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def decoded(packet: bytes) -> None:
    """A packet is refused, or says the same when it is said again."""
    try:
        message = messages.decode(packet)
    except ProtocolError:
        return
    try:
        again = messages.encode(message)
    except ProtocolError:
        return  # what was short in UTF-8 is long in ASCII
    assert repr(messages.decode(again)) == repr(message)


def main() -> None:
    """Fuzz until told otherwise."""
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"XDG_RUNTIME_DIR": home, "XDG_STATE_HOME": home}
        stranger = Stranger()

        def one(packet: bytes) -> None:
            decoded(packet)
            if packet:
                stranger.say(packet)

        seeds = Path(home, "seeds")
        seeds.mkdir()
        values = {int: 1, str: "x", bool: True, float: 0.5}
        for kind, cls in messages._KINDS.items():
            fields = {name: values.get(hint, []) for name, hint in messages._hints(kind).items()}
            (seeds / kind).write_bytes(messages.encode(cls(**fields)))
        atheris.Setup([*sys.argv, str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
