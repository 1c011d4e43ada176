"""What decides how a run ended is in ``events.jsonl`` before the front is told.

Where the front dies, another process writes the run's report from these facts alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.containment.cookie import Cookie
from supervisor.containment.subreaper import Subreaper
from supervisor.ipc import messages
from supervisor.records import rundir
from supervisor.records.events import EventLog, Fact, read_events
from supervisor.warden import serve
from tests.support.cli import ROOT
from tests.support.waiting import DEADLINE_S


class Front:
    """Notes, with each message it is sent, what the run's facts hold at that moment."""

    scribe = None

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.seen: list[tuple[messages.Message, list[Fact]]] = []

    def post(self, message: messages.Message) -> None:
        self.seen.append((message, list(read_events(self.run_dir))))


def order(run_dir: Path) -> Front:
    """Order a run that cannot be started; return the front that was told so."""
    front = Front(run_dir)
    hold = serve.Hold(Subreaper(), Cookie(), "")
    # neither the line's descriptors nor the signals are looked at before the run is refused
    assert serve._run(messages.StartCommand(str(run_dir), []), [], front, None, hold) is None  # type: ignore[arg-type]
    return front


@pytest.mark.parametrize("text", [None, "not JSON", "{}"], ids=["missing", "torn", "empty"])
def test_a_refusal_is_a_fact_before_the_front_is_told(tmp_path: Path, text: str | None) -> None:
    EventLog(tmp_path, "front").close()
    if text is not None:
        (tmp_path / rundir.RUN_FILE).write_text(text)
    [(message, facts)] = order(tmp_path).seen
    assert isinstance(message, messages.RunRefused)
    assert [fact.name for fact in facts] == ["warden.run_refused"]
    assert facts[0].fields == {"error": message.error, "usage": message.usage}


@pytest.mark.parametrize("there", [True, False])
def test_a_refusal_creates_nothing_in_a_directory_that_the_front_removes(
    tmp_path: Path, there: bool
) -> None:
    run_dir = tmp_path / "run"
    if there:
        run_dir.mkdir()
    [(message, _)] = order(run_dir).seen
    assert isinstance(message, messages.RunRefused)
    assert [path.name for path in tmp_path.rglob("*")] == ["run"] * there


def tell_and_facts(run_dir: Path, module: str) -> tuple[str, list[Fact]]:
    run_dir.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, run_dir],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, list(read_events(run_dir))


def the(facts: list[Fact], name: str) -> dict[str, Any]:
    [fact] = [fact for fact in facts if fact.name == name]
    return fact.fields


def test_the_end_of_a_run_is_recorded_as_the_front_is_told_it(own_state: Path) -> None:
    told, facts = tell_and_facts(own_state / "run", "tests.support.failing_run")
    ended = json.loads(told)
    assert the(facts, "warden.run_ended") == ended
    assert (ended["outcome"], ended["usage"], ended["survivors"]) == ("failed", True, [])
    assert ended["reason"] == "the strategy is not there"


def test_a_stop_is_recorded_with_the_requester_the_level_and_the_reason(own_state: Path) -> None:
    _, facts = tell_and_facts(own_state / "run", "tests.support.late_request")
    requested = [fact.fields for fact in facts if fact.name == "warden.stop_requested"]
    assert requested[0] == {"by": "flag", "level": "STOP", "reason": "the stop flag was set"}
    ended = the(facts, "warden.run_ended")
    assert (ended["outcome"], ended["reason"]) == ("stopped", "the stop flag was set")


def test_a_containment_that_is_refused_is_a_fact_of_the_run_that_was_to_have_it(
    tmp_path: Path,
) -> None:
    EventLog(tmp_path, "front").close()
    front, warden = messages.pair()
    code = (
        "import socket, sys\n"
        "from supervisor.containment.unavailable import UnavailableError\n"
        "from supervisor.warden.__main__ import _refuse\n"
        "_refuse(socket.socket(fileno=int(sys.argv[1])), 'cgroup', UnavailableError('w', 'm'))"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(warden.fileno())],
        pass_fds=[warden.fileno()], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as refusing:  # fmt: skip
        warden.close()
        refusal, _ = messages.receive(front)
        assert isinstance(refusal, messages.RunRefused)
        messages.send(front, messages.StartGuard(str(tmp_path)))
        front.close()
        refusing.wait(DEADLINE_S)
    fields = the(list(read_events(tmp_path)), "warden.run_refused")
    assert fields == {"error": refusal.error, "usage": True}


def test_what_a_call_has_closed_is_not_called_in_the_same_instant(own_state: Path) -> None:
    told, facts = tell_and_facts(own_state / "run", "tests.support.forgotten_descriptor")
    assert told.split() == ["read"]
    assert the(facts, "warden.run_ended")["outcome"] == "completed"
