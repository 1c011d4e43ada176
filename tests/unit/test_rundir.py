"""A run directory is private whatever the umask, and another user's is never taken for one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, UntrustedError
from supervisor.lifecycle.reap import reap_run
from supervisor.records import registry, rundir
from supervisor.records.registry import Entry
from supervisor.system import durable
from supervisor.system.process import Identity

NOBODY = 65534
RUN = "20240229-120000-abcdef"
DEAD = Identity(2**22, 1)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(params=[0, 0o002, 0o022], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def wide(folder: Path) -> dict[str, str]:
    """What others may enter, read or write."""
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}
    return {str(path): oct(mode) for path, mode in found.items() if mode & 0o077}


def test_what_is_made_is_private(tmp_path: Path, umask: None) -> None:
    made = rundir.create(tmp_path / "runs" / "of" / RUN)
    durable.write_json(made / rundir.REPORT_FILE, {})
    assert wide(tmp_path) == {}
    assert sorted(path.name for path in made.iterdir()) == ["journal", "logs", "report.json"]


def test_a_directory_that_was_made_for_it_is_closed_to_the_writes_of_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o775)  # as under an umask of 002
    made = rundir.create(tmp_path / "run")
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
    rundir.check_own(made)


@pytest.mark.parametrize("name", ["journal", "logs"])
def test_what_others_have_prepared_is_not_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UntrustedError, match=rf"\A\S+/{name} is a link[^\n]*--run-dir\Z"):
        rundir.create(tmp_path / "run")


@needs_root
def test_a_directory_of_another_user_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o777)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    with pytest.raises(UntrustedError, match=r"belongs to[^\n]*--run-dir"):
        rundir.create(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


@needs_root
def test_a_link_of_another_user_leads_nowhere(tmp_path: Path) -> None:
    made = rundir.create(tmp_path / "mine")
    link = tmp_path / "link"
    link.symlink_to(made)
    assert rundir.resolve(link) == made  # one of ours is as good as the directory
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(UntrustedError, match="is a link that belongs to"):
        rundir.resolve(link)
    with pytest.raises(UntrustedError, match="is a link that belongs to"):
        rundir.create(link / "below")


@pytest.mark.parametrize("run_id", [RUN, f"{RUN}-12", "r", "A_b-9", "a" * 64])
def test_ids(run_id: str) -> None:
    assert rundir.check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "-a",
        "_a",
        "a.b",
        "a b",
        "a\n",
        "ä",
        "٣",
        "a" * 65,
        7,
        None,
        ["a"],
    ],
)
def test_no_ids(own_state: Path, run_id: object) -> None:
    with pytest.raises(ConfigError, match=r"\Arun id [^\n]*\Z"):
        rundir.check_run_id(run_id)
    for use in (registry.socket_path, registry.find, registry.remove):
        with pytest.raises(ConfigError, match="run id"):
            use(run_id)  # type: ignore[operator]


def test_an_entry_of_an_odd_id_is_none(own_state: Path) -> None:
    registry.add(Entry(RUN, own_state / "run", DEAD, DEAD))
    (file,) = registry.state_dir().iterdir()
    plain = durable.read_json(file)
    durable.write_json(file.with_name("a.b.json"), plain | {"run_id": "a.b"})
    assert [entry.run_id for entry in registry.entries()] == [RUN]


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_dead_run_whose_directory_others_may_write_is_left_and_named(
    own_state: Path, mode: int
) -> None:
    run_dir = rundir.create(own_state / "run")
    durable.write_json(run_dir / rundir.RUN_FILE, {"run_id": RUN})
    registry.add(entry := Entry(RUN, run_dir, DEAD, DEAD))
    run_dir.chmod(mode)
    reaped = reap_run(entry)
    assert reaped is not None
    assert "may be written by other users" in reaped.error
    assert not list(run_dir.glob("report*"))
    assert registry.find(RUN) == entry  # it can be reaped once the mode is put right


def test_no_temporary_file_is_written_through_a_planted_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    # the name that was used before, and the one that a foreseen random number would give
    monkeypatch.setattr("os.urandom", bytes)
    for name in (f".report.json.{os.getpid()}.tmp", f".report.json.{'0' * 16}.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        durable.write_json(tmp_path / "report.json", {})
    assert victim.read_bytes() == b"precious"
    monkeypatch.undo()
    durable.write_json(tmp_path / "report.json", {})
    assert victim.read_bytes() == b"precious"
    (tmp_path / "report.json").unlink()
    (tmp_path / "report.json").symlink_to(victim)
    durable.write_json(tmp_path / "report.json", {})  # takes the link's place
    assert victim.read_bytes() == b"precious"
    assert durable.read_json(tmp_path / "report.json") == {}
