"""Looking into a run's directory through another process, in bounded time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.lifecycle import look
from supervisor.lifecycle.look import Looker
from supervisor.records.events import EventLog
from supervisor.system import process
from tests.support.waiting import wait_for


@pytest.fixture
def looker(tmp_path: Path) -> Iterator[Looker]:
    looker = Looker(tmp_path)
    yield looker
    looker.close()


def test_what_is_there_is_seen(tmp_path: Path, looker: Looker) -> None:
    assert looker.latest("front.a", "front.b") == ""
    assert not looker.exists("run.json")
    assert looker.read("run.json") is None
    log = EventLog(tmp_path, "front")
    for name in ("a", "b", "c"):
        log.emit(name)
    log.close()
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "x" * 100_000}))
    assert looker.latest("front.a", "front.b") == "front.b"
    assert looker.exists("run.json")
    assert looker.read("run.json") == {"run_id": "x" * 100_000}
    assert looker.takes_writes()
    assert looker.problem == ""


def test_a_disk_that_does_not_answer_is_not_waited_for(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_ANSWER_S", 0.1)
    assert not looker.exists("run.json")
    child = looker._process
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    wait_for(lambda: process.state_letter(child.pid) == "T", "its suspension")
    looker.exists("run.json")
    began = time.monotonic()
    assert not looker.exists("run.json")
    assert looker.latest("front.a") == ""
    assert not looker.takes_writes()
    assert time.monotonic() - began < 0.1
    assert looker.problem.endswith("does not answer")


@pytest.mark.parametrize("name", ["events.jsonl", "run.json"])
def test_a_pipe_in_a_files_place_is_not_opened(tmp_path: Path, looker: Looker, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert looker.latest("front.a") == ""
    assert looker.read("run.json") is None


def test_a_process_that_dies_is_a_problem_and_no_error(looker: Looker) -> None:
    looker.exists("run.json")
    assert looker._process is not None
    looker._process.kill()
    looker._process.wait()
    assert not looker.exists("run.json")
    assert looker.problem
