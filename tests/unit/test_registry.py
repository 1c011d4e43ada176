from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, RunNotFoundError
from supervisor.records import registry, rundir
from supervisor.records.registry import Entry
from supervisor.system import durable
from supervisor.system.process import Identity

pytestmark = pytest.mark.usefixtures("own_state")

NOBODY = Identity(2**22 - 1, 1)


def me() -> Identity:
    found = Identity.of(os.getpid())
    assert found is not None
    return found


def a_run(
    tmp_path: Path, run_id: str, *, alive: bool = True, front: Identity | None = None
) -> Entry:
    run_dir = tmp_path / "dirs" / run_id
    run_dir.mkdir(parents=True)
    durable.write_json(run_dir / rundir.RUN_FILE, {"run_id": run_id})
    entry = Entry(run_id, run_dir, front or (me() if alive else NOBODY), NOBODY)
    registry.add(entry)
    return entry


def test_what_is_written_down_is_found_again(tmp_path: Path) -> None:
    first, second = a_run(tmp_path, "b"), a_run(tmp_path, "a", alive=False)
    assert list(registry.entries()) == [second, first]
    registry.remove("b")
    registry.remove("b")
    assert list(registry.entries()) == [second]


def test_a_run_is_alive_while_front_or_warden_is(tmp_path: Path) -> None:
    assert Entry("r", tmp_path, me(), NOBODY).alive
    assert Entry("r", tmp_path, NOBODY, me()).alive
    assert not Entry("r", tmp_path, NOBODY, NOBODY).alive
    assert not Entry("r", tmp_path, me(), me(), over=True).alive
    later = Identity(me().pid, me().start_time + 1)  # the pid has been used again
    assert not Entry("r", tmp_path, later, later).alive


def test_a_running_run_is_found_by_id_by_directory_or_as_the_only_one(tmp_path: Path) -> None:
    entry = a_run(tmp_path, "one")
    a_run(tmp_path, "dead", alive=False)
    assert registry.find_running(None) == entry
    assert registry.find_running("one") == entry
    assert registry.find_running(str(entry.run_dir)) == entry
    assert registry.find_running(str(entry.run_dir) + "/../one") == entry
    for name in ("two", "dead", str(tmp_path)):
        with pytest.raises(RunNotFoundError, match=name):
            registry.find_running(name)


def test_with_none_or_several_a_name_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="no run is running"):
        registry.find_running(None)
    a_run(tmp_path, "one")
    a_run(tmp_path, "two")
    with pytest.raises(RunNotFoundError, match="one, two"):
        registry.find_running(None)


def test_the_directory_of_a_run_is_found_dead_or_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with pytest.raises(RunNotFoundError):
        registry.find_dir(None)
    dead = a_run(tmp_path, "dead", alive=False)
    assert registry.find_dir("dead") == dead.run_dir
    registry.remove("dead")
    assert registry.find_dir(str(dead.run_dir)) == dead.run_dir
    with pytest.raises(RunNotFoundError, match="'dead'"):
        registry.find_dir("dead")
    for run_id in ("20240101-000000-aaaaaa", "20250101-000000-aaaaaa"):
        (work / "runs" / run_id).mkdir(parents=True)
        durable.write_json(work / "runs" / run_id / rundir.RUN_FILE, {})
    assert registry.find_dir("20240101-000000-aaaaaa").name == "20240101-000000-aaaaaa"
    assert registry.find_dir(None).name == "20250101-000000-aaaaaa"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"run_id": 1}', "\0" * 100,
     '{"run_id": "x", "run_dir": "/x", "front": {}, "warden": {}}',
     '{"run_id": "x", "run_dir": null, "front": {"pid": 1, "start_time": 1}, "warden": {}}',
     '{"run_id": "x", "run_dir": "/x", "front": [1, 2], "warden": 7}',
     *('{"run_id": "bad", "run_dir": "/x", "front": {"pid": 1, "start_time": 1, "node": NODE},'
       ' "warden": {"pid": 1, "start_time": 1}}'.replace("NODE", node) for node in ("7", "[]")),
     '{"run_id": "x", "run_dir": "/x", "front": {"pid": 1, "start_time": 1, "more": 1},'
     ' "warden": {}}'],
)  # fmt: skip
def test_a_damaged_entry_is_left_out(tmp_path: Path, text: str) -> None:
    good = a_run(tmp_path, "good")
    (registry.state_dir() / "bad.json").write_text(text)
    assert list(registry.entries()) == [good]
    assert registry.find_running(None) == good
    registry.remove("good")
    with pytest.raises(RunNotFoundError, match=r"^no run is running$"):
        registry.find_running(None)


def test_a_name_that_is_too_long_for_a_path_is_no_runs(tmp_path: Path) -> None:
    a_run(tmp_path, "good")
    for find in (registry.find_dir, registry.find_running):
        with pytest.raises(RunNotFoundError):
            find("a" * 300)


def test_an_entry_that_is_being_removed_is_left_out(tmp_path: Path) -> None:
    a_run(tmp_path, "one")
    seen = registry.entries()
    registry.remove("one")
    assert list(seen) == []


def test_directories_are_private(own_state: Path) -> None:
    for path in (registry.state_dir(), registry.runtime_dir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert own_state in path.parents
        path.chmod(0o777)
    for path in (registry.state_dir(), registry.runtime_dir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_runtime_directory_that_is_a_link_is_refused(own_state: Path) -> None:
    elsewhere = own_state / "elsewhere"
    elsewhere.mkdir()
    (own_state / "runtime" / "allstop").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="not a directory that you own"):
        registry.runtime_dir()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a directory away")
def test_a_runtime_directory_of_another_user_is_refused(own_state: Path) -> None:
    theirs = own_state / "runtime" / "allstop"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(ConfigError, match="not a directory that you own"):
        registry.runtime_dir()


def test_without_a_usable_runtime_directory_one_in_tmp_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in ("", "/nonexistent"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert str(registry.runtime_dir()) == f"/tmp/allstop-{os.getuid()}"


@pytest.mark.parametrize("blocked", ["/dev/null/state", "/proc/state"])
def test_a_state_directory_that_cannot_be_made_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", blocked)
    with pytest.raises(ConfigError, match="state"):
        registry.state_dir()


def test_what_is_written_is_json_for_others_too(tmp_path: Path) -> None:
    a_run(tmp_path, "one")
    plain = json.loads((registry.state_dir() / "one.json").read_text())
    assert plain["front"] == me()._asdict()


def test_an_identity_of_another_boot_is_no_process(tmp_path: Path) -> None:
    before = Identity(me().pid, me().start_time, "another boot")
    assert not before.alive
    assert not before.send(0)
    assert Identity(me().pid, me().start_time).alive  # of an entry that knows no boot
    assert a_run(tmp_path, "one", front=before).alive is False


def test_a_directory_with_another_run_is_not_this_ones(tmp_path: Path) -> None:
    entry = a_run(tmp_path, "one", alive=False)
    assert entry.intact
    durable.write_json(entry.run_dir / rundir.RUN_FILE, {"run_id": "two"})
    assert not entry.intact
    with pytest.raises(RunNotFoundError):
        registry.find_dir("one")
    (entry.run_dir / rundir.RUN_FILE).unlink()
    assert not entry.intact


def test_entries_that_nothing_can_be_learnt_from_are_listed(tmp_path: Path) -> None:
    entry = a_run(tmp_path, "one")
    bad = registry.state_dir() / "bad.json"
    bad.write_text("{")
    misnamed = registry.state_dir() / "misnamed.json"
    misnamed.write_text((registry.state_dir() / "one.json").read_text())
    assert registry.unreadable() == [bad, misnamed]
    assert list(registry.entries()) == [entry]
    assert registry.find("one") == entry
    assert registry.find("bad") is registry.find("nothing") is None


def test_what_a_killed_writer_left_is_told_from_what_a_living_one_writes() -> None:
    folder = registry.state_dir()
    with subprocess.Popen(["true"]) as dead:
        pass
    abandoned = folder / f".run.json.{dead.pid}.tmp"
    written = folder / f".run.json.{os.getpid()}.tmp"
    abandoned.touch()
    written.touch()
    assert registry.torn() == [abandoned]
