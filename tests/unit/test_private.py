"""Files of ours are opened; those that another user owns or may write, and links, are not."""

from __future__ import annotations

import os
import stat
import tracemalloc
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, UntrustedError
from supervisor.system import private

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    (made / "file").write_bytes(b"ours")
    (made / "file").chmod(0o600)
    return made


def test_a_file_of_ours_is_read(folder: Path) -> None:
    assert private.read_bytes(folder / "file") == b"ours"
    assert private.names_in(folder) == ["file"]
    assert private.names_in(folder / "none") == []
    with pytest.raises(FileNotFoundError):
        private.read_bytes(folder / "none")


def to_link(file: Path) -> None:
    file.rename(file.with_name("secret"))
    file.symlink_to("secret")


def to_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def to_folder(file: Path) -> None:
    file.unlink()
    file.mkdir(mode=0o700)


def to_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def group_writable(file: Path) -> None:
    file.chmod(0o620)


def world_writable(file: Path) -> None:
    file.chmod(0o602)


def folder_group_writable(file: Path) -> None:
    file.parent.chmod(0o770)


def folder_is_link(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))
    file.parent.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (to_link, "is a link"),
        (to_fifo, "is not a regular file"),
        (to_folder, "is not a regular file"),
        (to_device, "is a link"),
        (group_writable, "may be written by other users (mode 0620)"),
        (world_writable, "may be written by other users (mode 0602)"),
        (folder_group_writable, "may be written by other users (mode 0770)"),
        (folder_is_link, "is a link"),
    ],
)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT])
def test_what_others_may_have_put_there_is_not_opened(
    folder: Path, change: object, what: str, flags: int
) -> None:
    assert callable(change)
    change(folder / "file")
    with pytest.raises(UntrustedError, match=r"^[^\n]+$") as refused:
        private.open_regular(folder / "file", flags)
    assert what in str(refused.value)
    assert str(folder) in str(refused.value)


@needs_root
@pytest.mark.parametrize("whose", ["file", "."])
def test_what_another_user_owns_is_not_opened_unless_asked_for(folder: Path, whose: str) -> None:
    os.chown(folder / whose, NOBODY, NOBODY)
    with pytest.raises(UntrustedError, match="not to you") as refused:
        private.read_bytes(folder / "file")
    assert refused.value.owner == NOBODY
    with private.reading_untrusted():
        assert private.read_bytes(folder / "file") == b"ours"
        with pytest.raises(UntrustedError):
            private.open_regular(folder / "file", os.O_WRONLY)
    with private.reading_untrusted(asked=False), pytest.raises(UntrustedError):
        private.read_bytes(folder / "file")


@needs_root
def test_root_by_sudo_may_use_what_the_caller_owns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(folder, NOBODY, NOBODY)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    assert private.read_bytes(folder / "file") == b"ours"
    monkeypatch.setenv("SUDO_UID", "1")
    with pytest.raises(UntrustedError):
        private.read_bytes(folder / "file")


def test_a_second_name_of_a_private_file_is_not_read_for_another_user(folder: Path) -> None:
    os.link(folder / "file", folder / "report.json")
    assert private.read_bytes(folder / "report.json") == b"ours"
    with private.reading_untrusted(), pytest.raises(UntrustedError, match="several names"):
        private.read_bytes(folder / "report.json")


def test_links_are_not_followed_when_reading_what_is_not_trusted(folder: Path) -> None:
    to_link(folder / "file")
    with private.reading_untrusted(), pytest.raises(UntrustedError, match="is a link"):
        private.read_bytes(folder / "file")


def test_a_file_that_is_too_large_is_refused(folder: Path) -> None:
    assert private.read_bytes(folder / "file", limit=4) == b"ours"
    with pytest.raises(ConfigError, match="larger than 3 bytes"):
        private.read_bytes(folder / "file", limit=3)


def test_a_small_file_takes_no_memory_for_a_large_one(folder: Path) -> None:
    """Where the shell limits memory, half a gigabyte of it may not be there for an instant."""
    tracemalloc.start()
    try:
        assert private.read_bytes(folder / "file", limit=2**29) == b"ours"
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("umask", [0, 0o002, 0o077, 0o277])
def test_a_directory_that_is_made_is_private(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        private.make_directory(tmp_path / "made")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    private.make_directory(tmp_path / "made")


def test_a_directory_that_others_may_have_filled_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made").chmod(0o770)
    with pytest.raises(UntrustedError):
        private.make_directory(tmp_path / "made")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UntrustedError):
        private.make_directory(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="directory"):
        private.make_directory(tmp_path / "file")


def test_a_temporary_file_has_a_name_that_cannot_be_foreseen(tmp_path: Path) -> None:
    found = set()
    for _ in range(2):
        fd, temporary = private.create_temporary(tmp_path / "report.json")
        os.close(fd)
        assert temporary.parent == tmp_path
        assert temporary.name.split(".")[-2] == str(os.getpid())
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        found.add(temporary)
    assert len(found) == 2
