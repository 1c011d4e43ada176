from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ProtocolError
from supervisor.ipc import messages
from supervisor.ipc.messages import MAX_PACKET_BYTES, MAX_TEXT, Message, clip, decode, encode

KINDS = get_args(Message)
integers = st.integers(-(2**63) + 1, 2**63 - 1)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=50),
    int: integers,
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    list[str]: st.lists(st.text(max_size=10), max_size=5),
    list[int]: st.lists(integers, max_size=5),
}

any_message = st.one_of(
    [st.builds(cls, **{name: VALUES[hint] for name, hint in get_type_hints(cls).items()})
     for cls in KINDS]
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
names = sorted({name for cls in KINDS for name in cls._fields})
bodies = st.dictionaries(st.sampled_from(["kind", *names]), json_values, max_size=6).flatmap(
    lambda body: (
        st.sampled_from([cls.__name__ for cls in KINDS]).map(lambda kind: {"kind": kind} | body)
        | st.just(body)
    )
)


def decoded_or_refused(packet: bytes) -> Message | None:
    try:
        return decode(packet)
    except ProtocolError:
        return None


@given(any_message)
def test_every_message_comes_back(message: Message) -> None:
    again = decode(encode(message))
    assert (type(again), again) == (type(message), message)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_protocol_error(packet: bytes) -> None:
    decoded_or_refused(packet)


@given(json_values | bodies)
def test_no_json_raises_anything_but_a_protocol_error(value: Any) -> None:
    message = decoded_or_refused(json.dumps(value).encode())
    if message is not None:
        # what is let in has the types it promises: its reader need not look again
        hints = get_type_hints(type(message))
        for name, hint in hints.items():
            if name == "kind":
                continue
            got = getattr(message, name)
            wanted = (int, float) if hint is float else getattr(hint, "__origin__", hint)
            assert isinstance(got, wanted)
        assert decode(encode(message)) == message or "NaN" in encode(message).decode()


@given(any_message, st.data())
def test_no_damaged_packet_raises_anything_but_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    packet = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    decoded_or_refused(bytes(packet))
    decoded_or_refused(bytes(packet[: data.draw(st.integers(0, len(packet)))]))


@pytest.mark.parametrize(
    "packet",
    [
        b"", b"null", b"[]", b"{}", b'{"kind": null}', b'{"kind": []}', b'{"kind": {}}',
        b'{"kind": "no such kind"}', b'{"kind": "RequestStop"}',
        b'{"kind": "RequestStop", "level": true}', b'{"kind": "RequestStop", "level": 2.0}',
        b'{"kind": "RequestStop", "level": 2, "more": 1}',
        b'{"kind": "RequestStop", "level": 9223372036854775808}',
        b'{"kind": "Status", "run_id": "", "status": "", "done": 0, "total": 0, "workers": ["1"]}',
        b"[" * 60_000, b"9" * 60_000, b" " * (MAX_PACKET_BYTES + 1), b"\xff\xfe",
    ],
    ids=lambda packet: packet[:40].decode("latin-1"),
)  # fmt: skip
def test_nonsense_is_refused(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(packet)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError):
        encode(messages.RequestStop(2, "x" * MAX_PACKET_BYTES))


@given(st.text())
def test_a_clipped_text_always_fits(text: str) -> None:
    many = clip(text * 1000)
    assert len(many) <= MAX_TEXT
    encode(messages.RunRefused(many, usage=True))


def test_the_longest_texts_of_the_widest_characters_fit() -> None:
    wide = clip("\U0001f600" * 10_000)
    encode(messages.RunEnded("failed", wide, 0.0, ["pid 4194304 (\x01\x01\x01), state D"] * 100))
    encode(messages.StopBegun(3, wide, "stop command"))
    encode(messages.Status("x" * 64, "stopping", 2**32, 2**32, [4_194_304] * 1024))


# --- on a socket -------------------------------------------------------------------------------


@pytest.fixture
def ends(no_leaks: None):
    one, other = messages.pair()
    yield one, other
    one.close()
    other.close()


def test_messages_and_descriptors_arrive_whole_and_in_order(ends) -> None:
    one, other = ends
    fd = os.memfd_create("test")
    os.write(fd, b"hello")
    assert messages.send(one, messages.Finished(1))
    assert messages.send(one, messages.StartRun("/somewhere"), [fd, fd])
    os.close(fd)
    assert messages.receive(other) == (messages.Finished(1), [])
    message, fds = messages.receive(other)
    assert message == messages.StartRun("/somewhere")
    assert [os.pread(fd, 9, 0) for fd in fds] == [b"hello"] * 2
    for fd in fds:
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_closed_line_is_told_and_never_raised(ends) -> None:
    one, other = ends
    messages.send(one, messages.Finished(1))
    one.close()
    assert messages.receive(other)[0] == messages.Finished(1)
    assert messages.receive(other) == (None, [])
    assert messages.send(other, messages.Finished(2)) is False


def test_sending_never_blocks(ends) -> None:
    one, _ = ends
    sent = 0
    while messages.send(one, messages.Finished(sent)):
        sent += 1
    assert sent > 10
    assert messages.send(one, messages.Finished(0)) is False


def test_sending_descriptors_never_blocks_either(ends) -> None:
    one, other = ends
    while messages.send(one, messages.Finished(0)):
        pass
    answers: list[bool] = []
    sending = threading.Thread(
        target=lambda: answers.append(messages.send(one, messages.StartRun("/"), [one.fileno()])),
        daemon=True,
    )
    sending.start()
    sending.join(5)
    stuck = sending.is_alive()
    other.close()  # frees it
    sending.join(5)
    assert not stuck
    assert answers == [False]


def test_an_over_long_packet_is_refused_and_its_descriptors_are_not_kept(ends) -> None:
    one, other = ends
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    fd = os.memfd_create("test")
    socket.send_fds(one, [b" " * (MAX_PACKET_BYTES + 100)], [fd])
    socket.send_fds(one, [b"nonsense"], [fd])
    os.close(fd)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            messages.receive(other)
