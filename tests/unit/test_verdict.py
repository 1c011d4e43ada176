"""The verdict's tables, in every cell; and that facts tell a finisher what the front knew."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.records.events import EventLog
from supervisor.records.report import Report
from supervisor.records.stop_record import ECHO, StopRecord
from supervisor.records.story import Story
from supervisor.records.verdict import (
    OF_COMPLETED,
    OF_DETACHED,
    WORK_AND_JOBS,
    Cause,
    Jobs,
    Observed,
    Results,
    Work,
    verdict,
)
from supervisor.states import ExitCode, RunStatus

# one letter a cell: C completed, unless the results say otherwise; S stopped; W the work failed;
# J the jobs failed; D left running, unless the results are whole
EXPECTED = {
    #                settled failed cut_short refused unguarded detached
    Work.DONE:      "C J S J J C",
    Work.ELSEWHERE: "C C S J J D",
    Work.STOPPED:   "S S S J S S",
    Work.FAILED:    "W W W W W W",
    Work.LOST:      "W W W W W W",
}  # fmt: skip
LETTER = {
    "C": (RunStatus.COMPLETED, Cause.NONE),
    "S": (RunStatus.STOPPED, Cause.STOP),
    "W": (RunStatus.FAILED, Cause.WORK),
    "J": (RunStatus.FAILED, Cause.JOBS),
    "D": (RunStatus.STOPPED, Cause.DETACHED),
}
OF_RESULTS = {
    Results.WHOLE: (RunStatus.COMPLETED, Cause.NONE),
    Results.MISSING: (RunStatus.FAILED, Cause.MISSING),
    Results.UNWRITTEN: (RunStatus.FAILED, Cause.UNWRITTEN),
    Results.ALL_FAILED: (RunStatus.FAILED, Cause.ALL_FAILED),
}


def observed(work: Work, jobs: Jobs, results: Results, **more: Any) -> Observed:
    return Observed(
        work, jobs, results, stop_reason="asked", work_reason="broke", jobs_reason="job 7 failed",
        unwritten_reason="no room", missing=3, **more,
    )  # fmt: skip


def expected(work: Work, jobs: Jobs, results: Results) -> tuple[RunStatus, Cause]:
    letter = EXPECTED[work].split()[list(Jobs).index(jobs)]
    if letter == "C":
        return OF_RESULTS[results]
    if letter == "D" and results is not Results.MISSING:
        return OF_RESULTS[results]
    return LETTER[letter]


def test_the_tables_are_total() -> None:
    assert set(WORK_AND_JOBS) == set(itertools.product(Work, Jobs))
    assert set(OF_COMPLETED) == set(OF_DETACHED) == set(Results)


@pytest.mark.parametrize("work", Work)
@pytest.mark.parametrize("jobs", Jobs)
@pytest.mark.parametrize("results", Results)
def test_every_cell(work: Work, jobs: Jobs, results: Results) -> None:
    status, cause = expected(work, jobs, results)
    for usage, left, number in itertools.product(
        (False, True), (False, True), (0, signal.SIGINT, signal.SIGHUP)
    ):
        found = verdict(observed(work, jobs, results, usage=usage, left=left, signal=number))
        assert (found.status, found.cause) == (status, cause)
        code = {
            RunStatus.COMPLETED: ExitCode.DONE,
            RunStatus.FAILED: ExitCode.USAGE if usage else ExitCode.FAILED,
            RunStatus.STOPPED: 128 + (number or signal.SIGTERM),
        }[status]
        assert found.exit_code == (ExitCode.INCOMPLETE if left else code)
        assert bool(found.reason) == (cause is not Cause.NONE)


@pytest.mark.parametrize(
    ("cause", "seen", "reason"),
    [
        (Cause.STOP, observed(Work.STOPPED, Jobs.SETTLED, Results.MISSING), "asked"),
        (Cause.WORK, observed(Work.LOST, Jobs.SETTLED, Results.WHOLE), "broke"),
        (Cause.JOBS, observed(Work.DONE, Jobs.FAILED, Results.WHOLE), "job 7 failed"),
        (Cause.UNWRITTEN, observed(Work.DONE, Jobs.SETTLED, Results.UNWRITTEN), "no room"),
        (Cause.MISSING, observed(Work.DONE, Jobs.SETTLED, Results.MISSING), "in no journal"),
        (Cause.MISSING, observed(Work.ELSEWHERE, Jobs.FAILED, Results.MISSING), "(job 7 failed)"),
        (
            Cause.DETACHED,
            observed(Work.ELSEWHERE, Jobs.DETACHED, Results.MISSING),
            "collect with allstop resume",
        ),
        (
            Cause.ALL_FAILED,
            observed(Work.DONE, Jobs.SETTLED, Results.ALL_FAILED),
            "every combination failed",
        ),
    ],
)
def test_the_reason_is_that_of_what_decided(cause: Cause, seen: Observed, reason: str) -> None:
    found = verdict(seen)
    assert found.cause is cause
    assert reason in found.reason


@given(
    st.builds(
        Observed, st.sampled_from(Work), st.sampled_from(Jobs), st.sampled_from(Results),
        st.text(), st.integers(0, 64), st.text(), st.text(), st.text(), st.integers(0),
        st.booleans(), st.booleans(),
    )
)  # fmt: skip
def test_what_was_observed_comes_back_from_json(seen: Observed) -> None:
    plain = json.loads(json.dumps(seen.to_json()))
    assert Observed.from_json(plain | {"of a later version": 1}) == seen


# -- requests ------------------------------------------------------------------


def test_the_first_request_gives_the_reason_and_the_last_signal_the_exit_code() -> None:
    record = StopRecord()
    assert not record
    assert record.report(1.0, []) is None
    record.note("drain", "", "python")
    record.note("stop", "SIGINT", "SIGINT")
    record.note("kill", "SIGTERM", "SIGTERM")
    record.note("stop", "requested by the stop command", "stop command")
    assert (record.requested_by, record.reason, record.level) == ("python", "python", "kill")
    assert record.signal == signal.SIGTERM


def test_what_the_warden_passes_on_late_is_not_the_last_signal() -> None:
    record = StopRecord()
    record.note("stop", "SIGTERM", "SIGTERM")
    record.note("kill", "SIGINT", "SIGINT")
    record.note("stop", "SIGTERM", "SIGTERM", relayed=True)
    assert record.signal == signal.SIGINT
    alone = StopRecord()
    alone.note("stop", "SIGHUP", "SIGHUP", relayed=True)
    assert alone.signal == signal.SIGHUP


def test_the_warden_s_order_decides_which_request_was_first() -> None:
    front, finisher = StopRecord(), StopRecord()
    front.note("stop", "SIGINT", "SIGINT")
    front.note("stop", "asked by the stop command", "stop command", relayed=True)
    finisher.note("stop", "asked by the stop command", "stop command", relayed=True)
    finisher.note("stop", "SIGINT", "SIGINT", relayed=True)
    finisher.note("stop", "SIGINT", "SIGINT")
    assert (front.reason, front.signal) == (finisher.reason, finisher.signal)
    assert front.reason == "asked by the stop command"


def test_a_flag_seen_before_its_request_is_not_taken_for_another_request() -> None:
    record = StopRecord()
    record.note("stop", "the stop flag was set", ECHO)
    record.note("stop", "SIGINT", "SIGINT")
    record.note("stop", "the front died", "warden")
    assert (record.requested_by, record.reason) == ("SIGINT", "SIGINT")


def test_no_rung_is_noted_that_no_request_led_to() -> None:
    record = StopRecord()
    record.rung("verify", 0.1, 0)
    record.note("stop", "", "python")
    record.rung("flag", 0.1, 2)
    report = record.report(0.2, ["pid 7"])
    assert report is not None
    assert [rung.name for rung in report.rungs] == ["flag"]


# -- facts ---------------------------------------------------------------------


def write_facts(run_dir: Path, *facts: tuple[str, dict[str, Any]]) -> None:
    for name, fields in facts:
        room, _, happened = name.partition(".")
        log = EventLog(run_dir, room)
        log.emit(happened, **fields)
        log.close()


REQUESTED = ("front.run_requested", {"elsewhere": False})
STARTED = ("warden.run_started", {"containment": "cgroup", "ram_baseline_bytes": 7})


def run_ended(outcome: str, reason: str = "", *, usage: bool = False) -> tuple[str, dict[str, Any]]:
    return (
        "warden.run_ended",
        {"outcome": outcome, "reason": reason, "usage": usage, "survivors": []},
    )


def test_a_run_whose_end_was_not_seen_is_lost(tmp_path: Path) -> None:
    write_facts(tmp_path, REQUESTED, STARTED)
    story = Story.of(tmp_path)
    assert (story.work, story.containment) == (Work.LOST, "cgroup")
    assert "killed" in story.work_reason


@pytest.mark.parametrize(
    ("outcome", "elsewhere", "work"),
    [
        ("completed", False, Work.DONE),
        ("completed", True, Work.ELSEWHERE),
        ("stopped", False, Work.STOPPED),
        ("failed", True, Work.FAILED),
    ],
)
def test_the_warden_s_word_counts(
    tmp_path: Path, outcome: str, elsewhere: bool, work: Work
) -> None:
    requested = ("front.run_requested", {"elsewhere": elsewhere})
    write_facts(tmp_path, requested, STARTED, run_ended(outcome, "why", usage=True))
    story = Story.of(tmp_path)
    assert (story.work, story.work_reason, story.usage) == (work, "why", True)


def test_what_the_front_has_seen_counts_more(tmp_path: Path) -> None:
    finishing = {"work": "lost", "reason": "the warden died", "usage": False, "survivors": ["x"]}
    write_facts(
        tmp_path, REQUESTED, STARTED, run_ended("completed"), ("front.finishing", finishing)
    )
    story = Story.of(tmp_path)
    assert (story.work, story.work_reason) == (Work.LOST, "the warden died")
    assert story.survivors == ["x"]


def test_a_run_that_was_refused_has_failed_of_that(tmp_path: Path) -> None:
    write_facts(tmp_path, REQUESTED, ("warden.run_refused", {"error": "no such", "usage": True}))
    story = Story.of(tmp_path)
    assert (story.work, story.work_reason, story.usage) == (Work.FAILED, "no such", True)


def test_only_the_latest_attempt_is_told(tmp_path: Path) -> None:
    asked = ("warden.stop_requested", {"by": "SIGINT", "level": "STOP", "reason": "SIGINT"})
    write_facts(tmp_path, REQUESTED, STARTED, asked, run_ended("stopped"), REQUESTED)
    story = Story.of(tmp_path)
    assert story.work is Work.LOST
    assert not story.stop
    assert story.containment == "none"


@pytest.mark.parametrize("fields", [{}, {"outcome": 7}, {"outcome": "running", "reason": ""}])
def test_a_damaged_fact_says_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    write_facts(tmp_path, REQUESTED, STARTED, ("warden.run_ended", fields))
    assert Story.of(tmp_path).work is Work.LOST


def test_an_attempt_that_died_before_it_had_a_warden_does_not_inherit_a_stop(
    tmp_path: Path,
) -> None:
    asked = ("warden.stop_requested", {"by": "SIGTERM", "level": "STOP", "reason": "SIGTERM"})
    again = ("front.resume_begun", {"resumed": 1})
    write_facts(tmp_path, REQUESTED, STARTED, asked, run_ended("stopped"), again)
    story = Story.of(tmp_path)
    assert story.work is Work.LOST
    assert not story.stop


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "warden.run_started", "at": "x", "containment": "c", "ram_baseline_bytes": 7}',
        '{"event": "warden.run_started", "at": 1, "containment": "c", "ram_baseline_bytes": 1e999}',
        "[" * 100_000,
    ],
    ids=["no instant", "infinite", "deep"],
)
def test_a_line_that_is_no_fact_says_nothing(tmp_path: Path, line: str) -> None:
    write_facts(tmp_path, REQUESTED)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    write_facts(tmp_path, run_ended("completed"))
    story = Story.of(tmp_path)
    assert (story.work, story.began) == (Work.DONE, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"combos_done": None}, {"elapsed_s": "x"}, {"errors": 7}, {"observed": []}, {"stop": {}},
        {"memory": []},
        {"stop": {"requested_by": "x", "level": "stop", "rungs": [], "survivors": 7}},
    ],
)  # fmt: skip
def test_a_report_of_other_kinds_is_no_report(change: dict[str, Any]) -> None:
    plain = Report("id", RunStatus.COMPLETED, "", 0, "none", 1, 1, 0, 0.1, "run").to_json()
    assert Report.from_json(plain).run_id == "id"
    with pytest.raises((KeyError, TypeError, ValueError)):
        Report.from_json(plain | change)
