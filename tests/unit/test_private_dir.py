"""What another user may have written is never believed, and nothing is lost but time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from supervisor.doctor import disk
from supervisor.doctor.finding import Status
from supervisor.errors import ConfigError
from supervisor.lifecycle.gpu import speed
from supervisor.market import cache
from supervisor.records import registry
from supervisor.system import private_dir
from supervisor.system.private_dir import UntrustedPlaceError
from supervisor.system.process import Identity
from tests.support.data import write_csv
from workers.code_cache import CodeCache
from workers.gpu import own_device
from workers.indicators.disk import DiskCache

NOBODY = 65_534
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs root to give files away")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of ours, with a file in it, on a way that nobody else can write."""
    folder = tmp_path / "way" / "place"
    private_dir.make(folder)
    (folder / "file").write_bytes(b"kept")
    return folder


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def replaced_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def replaced_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


HARM: dict[str, Callable[[Path], object]] = {
    "the group can write it": lambda place: place.chmod(0o770),
    "all can write it": lambda place: place.chmod(0o707),
    "all can write it, though it is sticky": lambda place: place.chmod(0o1777),
    "it is a link": replaced_by_link,
    "others can write the way": lambda place: place.parent.chmod(0o777),
    "the group can write the way": lambda place: place.parent.chmod(0o775),
    "the group can write the file": lambda place: (place / "file").chmod(0o660),
    "the file is a link": lambda place: replaced_by_link(place / "file"),
    "the file is a FIFO": lambda place: replaced_by_fifo(place / "file"),
}
HARM_BY_OTHERS: dict[str, Callable[[Path], object]] = {
    "it is another's": lambda place: os.chown(place, NOBODY, NOBODY),
    "the way is another's": lambda place: os.chown(place.parent, NOBODY, NOBODY),
    "the file is another's": lambda place: os.chown(place / "file", NOBODY, NOBODY),
}
HARMS = [
    *HARM.values(),
    *(pytest.param(harm, marks=AS_ROOT) for harm in HARM_BY_OTHERS.values()),
]
NAMES = [*HARM, *HARM_BY_OTHERS]


@pytest.mark.parametrize("harm", HARMS, ids=NAMES)
def test_a_file_that_others_may_have_written_is_not_read(
    place: Path, harm: Callable[[Path], object]
) -> None:
    assert private_dir.read(place, "file") == b"kept"
    harm(place)
    with pytest.raises((UntrustedPlaceError, OSError)):
        private_dir.read(place, "file")


def test_a_way_through_a_sticky_directory_and_our_own_link_is_sound(place: Path) -> None:
    place.parent.chmod(0o1777)
    (place.parent / "short").symlink_to(place.parent)
    assert private_dir.read(place.parent / "short" / "place", "file") == b"kept"
    assert private_dir.why_not(place) is None


@AS_ROOT
def test_a_link_of_another_user_on_the_way_is_not_followed(place: Path) -> None:
    place.parent.chmod(0o1777)
    link = place.parent / "short"
    link.symlink_to(place.parent)
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(UntrustedPlaceError, match="link of another user"):
        private_dir.read(link / "place", "file")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UntrustedPlaceError):
        private_dir.read(tmp_path / "a" / "place", "file")


@pytest.mark.parametrize("mask", [0, 0o002, 0o777])
def test_what_is_made_is_private_whatever_the_umask(
    tmp_path: Path, umask: Callable[[int], int], mask: int
) -> None:
    umask(mask)
    private_dir.make(tmp_path / "a" / "b" / "c")
    umask(0o022)
    for made in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"])
def test_a_relative_path_is_ignored(
    own_state: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("HOME", str(own_state / "home"))
    monkeypatch.chdir(own_state)
    Path("planted").mkdir()
    monkeypatch.setenv(variable, "planted")
    for found in (cache.directory(), registry.state_dir(), registry.runtime_dir()):
        assert found.is_absolute()
        assert own_state / "planted" not in found.parents
    assert list(Path("planted").iterdir()) == []
    finding = disk.relative_paths()
    assert (finding.status, variable in finding.what) == (Status.WARNING, True)


def test_a_relative_cache_of_machine_code_is_ignored(
    own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLSTOP_CACHE_DIR", "planted")
    code = CodeCache(own_state / "package", ".o")
    assert code.places() == [own_state / "cache" / "allstop" / "kernels"]


# -- each cache --------------------------------------------------------------------


def bars_are_kept(_: Path, csv: Path) -> bool:
    bars = cache.load(csv)
    cache.keep(bars)
    again = cache.load(csv)
    assert again.digest() == bars.digest()
    return again not in cache._read_from  # of the file, else


def indicator_is_kept(base: Path, _: Path) -> bool:
    kept = DiskCache(base / "indicators", "digest")
    row = np.arange(4.0)
    kept.store("sma-3", row)
    return kept.load("sma-3", np.zeros(4))


def code_is_kept(base: Path, _: Path) -> bool:
    code = CodeCache(base / "no package", ".o")
    code.write("name", "source", "machine", b"code")
    return code.read("name", "source", "machine") == b"code"


def speed_is_kept(_: Path, __: Path) -> bool:
    speed.remember_gpu_start(2.5)
    return speed.recall().gpu_start_s == 2.5


def cupy_s_is_used(base: Path, _: Path) -> bool:
    variables = own_device("GPU-a", None, {})
    assert ("CUPY_CACHE_DIR" in variables) != ("CUPY_CACHE_IN_MEMORY" in variables)
    return variables.get("CUPY_CACHE_DIR") == str(base / "cupy")


USES = [bars_are_kept, indicator_is_kept, code_is_kept, speed_is_kept, cupy_s_is_used]


@pytest.mark.parametrize("is_kept", USES)
@pytest.mark.parametrize("harm", [0o700, 0o770, 0o777])
def test_a_cache_that_others_can_write_is_done_without_and_named(
    own_state: Path, is_kept: Callable[[Path, Path], bool], harm: int
) -> None:
    csv = write_csv(own_state / "bars.csv")
    os.utime(csv, (1e9, 1e9))
    base = own_state / "cache" / "allstop"
    assert is_kept(base, csv)
    for folder in (base, *filter(Path.is_dir, base.iterdir())):
        folder.chmod(harm)
    assert is_kept(base, csv) == (harm == 0o700)
    finding = disk.caches()
    assert finding.status is (Status.OK if harm == 0o700 else Status.WARNING)
    if harm != 0o700:
        assert f"{base} can be written by other users" in finding.what
        assert f"chmod 700 {base}" in finding.fix


def test_machine_code_under_another_name_is_not_that_name_s(own_state: Path) -> None:
    code = CodeCache(own_state / "no package", ".o")
    code.write("one", "source", "machine", b"code")
    (file,) = code.places()[0].iterdir()
    file.rename(file.with_name(file.name.replace("one", "two")))
    assert code.read("two", "source", "machine") is None


def test_the_caches_of_a_link_are_not_purged(own_state: Path) -> None:
    base = own_state / "cache" / "allstop"
    private_dir.make(base)
    other = own_state / "other"
    other.mkdir()
    (other / "precious.bars").touch()
    (base / "bars").symlink_to(other)
    assert cache.clear() == 0
    assert (other / "precious.bars").exists()


# -- registry and control sockets -----------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o606])
def test_an_entry_that_others_could_write_is_none(own_state: Path, mode: int) -> None:
    registry.add(registry.Entry("r", own_state, Identity(1, 1), Identity(1, 1)))
    (registry.state_dir() / "r.json").chmod(mode)
    assert (registry.find("r") is not None) == (mode == 0o600)
    assert len(list(registry.entries())) == (mode == 0o600)


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_state: Path) -> Path:
    """A directory that stands for ``/tmp``."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(registry, "_TMP", folder)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    return folder


def taken_by_a_file(usual: Path) -> None:
    usual.touch()


def taken_by_a_link(usual: Path) -> None:
    (usual.parent / "theirs").mkdir()
    usual.symlink_to(usual.parent / "theirs")


def taken_by_another(usual: Path) -> None:
    usual.mkdir()
    os.chown(usual, NOBODY, NOBODY)


@pytest.mark.parametrize(
    "take", [taken_by_a_file, taken_by_a_link, pytest.param(taken_by_another, marks=AS_ROOT)]
)
def test_a_taken_name_in_tmp_does_not_block_us(
    tmp: Path, take: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_LONGEST_SOCKET_PATH", 500)  # a test's own directory is deep
    usual = tmp / f"allstop-{os.getuid()}"
    assert registry.runtime_dir() == usual
    usual.rmdir()
    take(usual)
    found = registry.runtime_dir()
    assert found.parent == tmp
    assert found.name.startswith(f"{usual.name}-")
    assert len(found.name) > len(usual.name) + 8
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert registry.runtime_dir() == found, "another process of ours finds it too"
    assert registry.taken_runtime_dir() == usual
    finding = disk.runtime_dir()
    assert (finding.status, f"remove {usual}" in finding.fix) == (Status.WARNING, True)
    found.rmdir()  # /tmp is emptied at boot
    assert registry.runtime_dir() == found


def test_a_way_to_the_registry_that_others_can_write_is_named(own_state: Path) -> None:
    assert disk.registry_dir().status is Status.OK
    (own_state / "state").chmod(0o777)
    finding = disk.registry_dir()
    assert finding.status is Status.WARNING
    assert finding.fix == f"chmod go-w {own_state / 'state'}"


@AS_ROOT
def test_another_name_that_is_taken_too_is_given_up(tmp: Path) -> None:
    taken_by_a_file(tmp / f"allstop-{os.getuid()}")
    found = registry.runtime_dir()
    os.chown(found, NOBODY, NOBODY)
    assert registry.runtime_dir() not in (found, tmp / f"allstop-{os.getuid()}")


@AS_ROOT
def test_a_runtime_directory_that_came_with_another_s_environment_is_not_ours(
    tmp: Path, own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(own_state / "runtime", NOBODY, NOBODY)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own_state / "runtime"))
    assert registry.runtime_dir() == tmp / f"allstop-{os.getuid()}"


def test_no_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def none() -> Path:
        raise RuntimeError

    monkeypatch.setattr(private_dir, "home", none)
    with pytest.raises(ConfigError, match="set XDG_STATE_HOME"):
        registry.state_dir()
