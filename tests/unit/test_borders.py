"""What goes wrong on the way out keeps nothing from ending, and nobody from being told."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.containment.leftovers import clear_leftovers
from supervisor.errors import JournalError, UntrustedError
from supervisor.front import cluster, ending
from supervisor.front.phase import End, Ended
from supervisor.front.run import Front
from supervisor.front.sweep import Sweep
from supervisor.ipc import messages
from supervisor.records import registry, rundir
from supervisor.records.verdict import Work
from supervisor.system.process import Identity
from supervisor.warden.given_up import GivenUp
from supervisor.warden.refusal import record_refusal


@pytest.mark.parametrize("kind", ["none", "directory", "link"])
def test_a_refusal_that_cannot_be_recorded_is_one_all_the_same(tmp_path: Path, kind: str) -> None:
    events = tmp_path / rundir.EVENTS_FILE
    if kind == "directory":
        events.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").touch()
        events.symlink_to("elsewhere")
    record_refusal(tmp_path, messages.RunRefused("why", usage=True))
    assert kind != "link" or not (tmp_path / "elsewhere").read_bytes()


def test_a_journal_that_cannot_be_begun_fails_the_run(tmp_path: Path) -> None:
    failures: list[str] = []
    run: Any = SimpleNamespace(
        fail=failures.append,
        post=lambda _message: None,
        events=SimpleNamespace(emit=lambda *_names, **_fields: None),
    )
    taken = tmp_path / "worker-0001.bin"
    taken.touch()
    given_up = GivenUp(run, "r")
    given_up.begin(taken, 1)
    given_up.add(7, "crashed")
    assert [str(taken) in failure for failure in failures] == [True]


def test_the_finisher_is_started_though_the_socket_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    registry.socket_path("r").mkdir()
    started: list[Path] = []
    monkeypatch.setattr(ending, "start_finisher", lambda run_dir, _scribe: started.append(run_dir))
    front: Any = SimpleNamespace(
        phase=Ended(None, End(Work.STOPPED)),
        plan=SimpleNamespace(run_id="r"),
        run_dir=tmp_path,
        link=SimpleNamespace(scribe=SimpleNamespace(line=None)),
    )
    ending.Ending(front)._leave_to_finisher()
    assert started == [tmp_path]


@pytest.mark.parametrize("error", [UntrustedError("a link"), FileNotFoundError("no log")])
def test_stacks_that_cannot_be_shown_do_not_keep_sigquit_from_killing(error: Exception) -> None:
    def show_where() -> None:
        raise error

    asked: list[int] = []
    front: Any = object.__new__(Front)
    front.work = SimpleNamespace(show_where=show_where)
    front.inbox = SimpleNamespace(request_by_signal=asked.append)
    front._on_signal(signal.SIGQUIT)
    assert asked == [signal.SIGQUIT]


def test_journals_that_cannot_be_read_for_a_remark_do_not_end_the_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / rundir.JOURNAL_DIR).symlink_to(tmp_path)
    sweep: Any = object.__new__(Sweep)
    sweep._run = SimpleNamespace(run_dir=tmp_path)
    sweep._plan = SimpleNamespace(grid=SimpleNamespace(names=()), ranking=None)
    sweep._say_unranked()
    assert sweep._said_unranked


def test_a_journal_that_cannot_be_counted_does_not_keep_results_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def journals(_run_dir: Path) -> None:
        raise JournalError("is of a later version", path="worker-0000.bin")

    gathered: list[Path] = []
    monkeypatch.setattr(cluster, "gather", lambda run_dir, *_rest: gathered.append(run_dir))
    sweep: Any = object.__new__(cluster.ClusterSweep)
    sweep.jobs = SimpleNamespace(view=SimpleNamespace(refused=None))
    sweep._staging = SimpleNamespace(fetch=lambda: None)
    sweep._plan = SimpleNamespace(journals=journals)
    sweep._run = SimpleNamespace(run_dir=tmp_path, notes=SimpleNamespace(note=None))
    sweep.gather()
    assert gathered == [tmp_path]


def test_a_plan_without_an_id_has_no_cgroup(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / rundir.RUN_FILE).write_text("{}")
    assert clear_leftovers(tmp_path) == []


def test_an_entry_whose_run_has_no_id_any_more_is_not_intact(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / rundir.RUN_FILE).write_text("{}")
    nobody = Identity(0, 0)
    entry = registry.Entry("r", tmp_path, nobody, nobody)
    assert not entry.intact
    assert "run_id is missing" in entry.damage
