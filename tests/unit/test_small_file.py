from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.lifecycle.spec import read_spec
from supervisor.system import durable, small_file
from supervisor.system.small_file import check_small, read_small, read_small_text


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One of each kind that a name may lead to."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(5 * 2**30)
    (tmp_path / "looped").symlink_to("looped")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        listener.bind("socket")
        yield tmp_path


KINDS = {
    "directory": "is a directory, not a file",
    "pipe": "is a pipe, and nothing was written to it",
    "device": "is a device, not a file",
    "socket": "is a socket, not a file",
    "big": "is too large (5,368,709,120 bytes): at most 4,194,304 bytes",
    "looped": "Too many levels of symbolic links",
    "missing": "No such file or directory",
}


@pytest.mark.parametrize(("name", "why"), KINDS.items())
def test_what_is_no_small_file_is_refused_at_once(zoo: Path, name: str, why: str) -> None:
    with pytest.raises(OSError) as caught:
        read_small(zoo / name)
    assert caught.value.strerror == why
    assert caught.value.filename is not None
    if name != "pipe":
        with pytest.raises(OSError) as caught:
            check_small(zoo / name)
        assert caught.value.strerror == why
    with pytest.raises(ConfigError, match=f"spec {zoo / name}: ") as refused:
        read_spec(zoo / name)
    assert why in str(refused.value)
    with pytest.raises(ConfigError, match=str(zoo / name)):
        durable.read_json(zoo / name)


def test_ordinary_files_are_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\n")
    assert read_small_text(file) == "a = 1\nb = 2\n"
    assert read_small("/dev/null") == b""
    assert b"PATH" in read_small("/proc/self/environ"), "of a size that stat calls 0"
    file.write_bytes(b"x" * 100)
    assert read_small(file, 100) == b"x" * 100
    with pytest.raises(OSError, match="too large") as caught:
        read_small(file, 99)
    assert caught.value.errno == errno.EOVERFLOW
    with pytest.raises(OSError, match="too large"):
        read_small("/proc/kallsyms", 1000)


def test_a_pipe_is_read_to_its_end_as_its_writer_comes_to_it() -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read_small(f"/dev/fd/{reader}")))
    thread.start()
    for piece in (b"a" * 70_000, b"b"):
        os.write(writer, piece)
    os.close(writer)
    thread.join(30)
    os.close(reader)
    assert got == [b"a" * 70_000 + b"b"]


def test_a_pipe_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(small_file, "PIPE_S", 0.05)
    with pytest.raises(TimeoutError, match="writer took longer"):
        read_small(f"/dev/fd/{reader}")
    os.write(writer, b"x" * 101)
    with pytest.raises(OSError, match="too large"):
        read_small(f"/dev/fd/{reader}", 100)
    with pytest.raises(OSError, match="is a pipe, not a file"):
        read_small(f"/dev/fd/{reader}", pipe=False)
    os.close(reader)
    os.close(writer)


TOML = {
    "arrays": ("a = " + "[" * 10**6, "nested too deeply"),
    "tables": ("a = " + "{a = " * 10**5, "nested too deeply"),
    "dotted key": ("\n" + "a." * 10**6 + "a = 1", "line 2: a key of more than 50 parts"),
    "header": ("[" + '"a" . ' * 10**5 + "a]", "line 1: a key of more than 50 parts"),
    "integer": ("workers = " + "9" * 10**6, "a number has thousands of digits"),
    "hexadecimal": ('strategy = "s"\ngrid.a = 0x' + "f" * 10**6, "integer beyond 64 bits"),
    "keys": ("".join(f"k{i} = 1\n" for i in range(300_000)), "unknown key 'k0'"),
    "axes": (
        'strategy = "s"\n[grid]\n' + "".join(f"k{i} = 1\n" for i in range(100_000)),
        "100,000 parameters; at most 1,000",
    ),
    "letters": ("a" * 4_000_000, "not TOML"),
    "quotes": ("'a\"" * 10**6, "not TOML"),
    "bytes": ("\x00\x01", "not TOML"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("text", "why"), TOML.values(), ids=TOML)
def test_a_spec_of_monstrous_text_is_one_line_soon(tmp_path: Path, text: str, why: str) -> None:
    """Keys of a million parts took the parser, and a careless pattern, minutes and hours."""
    from supervisor.rows.grid import Grid

    spec = tmp_path / "spec.toml"
    spec.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Grid.of(read_spec(spec)["grid"])
    assert why in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, '{"a": ' + "9" * 10**5 + "}", "[]"])
def test_json_that_is_monstrous_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: not a JSON"):
        durable.read_json(tmp_path / "run.json")
