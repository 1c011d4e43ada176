"""``report`` on real runs: finished, stopped, running, dead, moved, damaged."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from supervisor.system.install import advice
from supervisor.system.process import Identity
from tests.support.cli import POLITE, Place, Started

SUM = """
def f(bars, params, stop):
    if params["a"] == 3:
        raise ValueError("no <b>luck</b>")
    return row(params) | {"total_return": params["a"] / 100 - 0.5}
"""


@pytest.fixture
def done(place: Place) -> Started:
    run = place.sweep(SUM, "--grid", "b=1:5:1", n=100)
    assert run.end() == 0, run.tell()
    return run


def refused(place: Place, *arguments: str) -> str:
    """Run ``report``; return its one line of complaint."""
    ended = place.command("report", *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("allstop: ")
    return ended.stderr


def test_a_finished_run_is_summed_up(place: Place, done: Started) -> None:
    ended = place.command("report", str(done.run_dir))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("completed: 500 of 500 combinations")
    assert "5 of them failed" in ended.stdout
    assert "best by sharpe" in ended.stdout
    assert "results.parquet" in ended.stdout


def test_json_is_the_report(place: Place, done: Started) -> None:
    ended = place.command("report", str(done.run_dir), "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == done.report


def test_the_page_is_written_into_the_run(place: Place, done: Started) -> None:
    pytest.importorskip("plotly")
    ended = place.command("report", str(done.run_dir), "--html")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{done.run_dir / 'report.html'}\n"
    text = (done.run_dir / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text)
    assert found
    charts = json.loads(found[1])
    cells = charts["heat"]["data"][0]
    assert len(cells["x"]) == 100
    assert cells["y"] == ["1", "2", "3", "4", "5"]
    assert all(row[3] is None for row in cells["z"])  # the combinations that failed
    assert "memory" in charts
    assert not list(done.run_dir.glob("*.tmp"))


def test_the_page_goes_where_it_is_sent_with_the_axes_that_are_named(
    place: Place, done: Started
) -> None:
    pytest.importorskip("plotly")
    ended = place.command(
        "report", str(done.run_dir), "--out", "page.html", "--x", "b", "--y", "a",
        "--metric", "twice", "--json",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said.pop("html") == str(place.work / "page.html")
    assert said == done.report
    text = (place.work / "page.html").read_text()
    assert "<h2>twice by b and a</h2>" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--html", "--x", "q"], "its parameters: a, b"),
        (["--html", "--y", "q"], "--y 'q'"),
        (["--html", "--x", "a", "--y", "a"], "name two parameters"),
        (["--html", "--metric", "q"], "its metrics: sharpe, twice, total_return"),
        (["--x", "a"], "--x needs --html"),
        (["--out", "nowhere/page.html"], "No such file or directory"),
        (["--out", "."], "cannot be written"),
    ],
)
def test_wrong_options_are_refused(
    place: Place, done: Started, options: list[str], said: str
) -> None:
    pytest.importorskip("plotly")
    assert said in refused(place, str(done.run_dir), *options)


def test_without_plotly_there_is_one_line(place: Place, done: Started) -> None:
    hidden = place.root / "hidden"
    hidden.mkdir()
    # a finder that comes first and knows no plotly
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = (\n"
        "    lambda name, *a: None if name == 'plotly' else found(name, *a)\n"
        ")\n"
    )
    place.env["PYTHONPATH"] = f"{hidden}{os.pathsep}{place.env['PYTHONPATH']}"
    said = refused(place, str(done.run_dir), "--html")
    assert said == f"allstop: --html needs plotly: {advice('plots')}\n"
    assert not (done.run_dir / "report.html").exists()


def test_a_stopped_run_shows_its_stop(place: Place) -> None:
    pytest.importorskip("plotly")
    run = place.sweep(POLITE, DONE=50)
    run.wait_marks("ready", 2)
    run.signal(signal.SIGINT)
    assert run.end() == 130
    assert "requested by SIGINT" in place.command("report", str(run.run_dir)).stdout
    ended = place.command("report", str(run.run_dir), "--html")
    assert ended.returncode == 0, ended.stderr
    text = (run.run_dir / "report.html").read_text()
    assert "stop requested by SIGINT" in text
    assert "<td>flag</td>" in text


def test_a_running_run_shows_its_status(place: Place) -> None:
    run = place.sweep(POLITE, DONE=50)
    run.wait_marks("ready", 2)
    ended = place.command("report", str(run.run_dir))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("still running")
    assert ": running" in ended.stdout
    said = json.loads(place.command("report", str(run.run_dir), "--json").stdout)
    assert said["status"] == "running"
    assert "still running" in refused(place, str(run.run_dir), "--html")
    assert not (run.run_dir / "report.json").exists()
    run.signal(signal.SIGKILL)
    run.end()
    run.wait_report()
    run.assert_gone()


def test_a_dead_run_is_finished_from_its_journals(place: Place) -> None:
    run = place.sweep(POLITE, DONE=50)
    run.wait_marks("ready", 2)
    warden = Identity.of(run.warden)
    assert warden
    # the front cannot react to the warden's death, nor the warden to the front's
    run.signal(signal.SIGSTOP)
    warden.send(signal.SIGKILL)
    run.kill_front()
    run.assert_gone()
    assert not (run.run_dir / "report.json").exists()
    ended = place.command("report", str(run.run_dir))
    assert ended.returncode == 0, ended.stderr
    assert "was killed with its warden" in ended.stdout
    # what a worker had in hand was not in its journal yet
    assert f"{len(run.kept())} of 1,000 combinations" in ended.stdout
    run.assert_nothing_lost(at_least=1)
    again = place.command("report", str(run.run_dir), "--json")
    assert json.loads(again.stdout) == run.report


def test_results_that_could_not_be_written_are_said_to_be_missing_and_written_later(
    place: Place,
) -> None:
    """Results that could not be written at the run's end: here, a directory has their name."""
    run = place.sweep(POLITE, json=False, DONE=50)
    run.wait_marks("ready", 2)
    results = run.run_dir / "results.parquet"
    results.mkdir()
    run.signal(signal.SIGINT)
    assert run.end() == 130
    assert "results.parquet could not be written" in run.out
    assert "results: not written" in run.out
    assert "Traceback" not in run.err
    results.rmdir()
    ended = place.command("report", str(run.run_dir))
    assert ended.returncode == 0, ended.stderr
    assert "written now, from the journals" in ended.stdout
    run.assert_nothing_lost(at_least=50)
    run.assert_gone()
    again = place.command("report", str(run.run_dir))
    assert "written" not in again.stdout


def without_results(place: Place, body: str) -> Started:
    """A run that has computed all, with something in the place of its results."""
    go = place.root / "go"
    run = place.sweep(body, n=100, workers=1, GO=str(go))
    run.wait_marks("ready", 1)
    (run.run_dir / "results.parquet").mkdir()
    go.touch()
    assert run.end() == 1
    (run.run_dir / "results.parquet").rmdir()
    return run


WAITS = """
def f(bars, params, stop):
    if params["a"] == 99:
        mark("ready")
        while not os.path.exists(GO):
            time.sleep(0.001)
    return row(params)
"""


def test_a_run_without_results_has_failed_until_they_are_written(place: Place) -> None:
    """A script that continues after exit code 0 will read them."""
    run = without_results(place, WAITS)
    assert run.report["status"] == "failed"
    assert "results.parquet could not be written" in run.report["reason"]
    ended = place.command("report", str(run.run_dir), "--json")
    report = json.loads(ended.stdout)
    assert (report["status"], report["reason"], report["exit_code"]) == ("completed", "", 0)
    assert report == run.report
    run.assert_gone()


def test_a_run_in_which_every_combination_failed_is_not_completed_by_its_results(
    place: Place,
) -> None:
    body = """
    def f(bars, params, stop):
        mark("ready")
        while not os.path.exists(GO):
            time.sleep(0.001)
        raise ValueError("never")
    """
    run = without_results(place, body)
    report = json.loads(place.command("report", str(run.run_dir), "--json").stdout)
    assert (report["status"], report["exit_code"]) == ("failed", 1)
    assert (report["combos_done"], report["combos_failed"]) == (100, 100)
    assert "every combination failed" in report["reason"]


def test_a_run_whose_journal_is_cut_is_not_completed_by_its_results(place: Place) -> None:
    run = without_results(place, WAITS)
    (journal,) = (run.run_dir / "journal").glob("worker-*")
    os.truncate(journal, journal.stat().st_size - 1)  # the last chunk's rows
    report = json.loads(place.command("report", str(run.run_dir), "--json").stdout)
    assert report["status"] == "failed"
    assert "in no journal any more: resume" in report["reason"]
    assert report["combos_done"] < 100
    again = place.command("resume", str(run.run_dir), "--json")
    assert json.loads(again.stdout.splitlines()[-1])["status"] == "completed"


def test_a_report_is_corrected_though_the_writer_of_the_results_was_killed(
    place: Place,
) -> None:
    run = without_results(place, WAITS)
    before = (run.run_dir / "report.json").read_bytes()
    place.command("report", str(run.run_dir))
    (run.run_dir / "report.json").write_bytes(before)  # killed before it had written this
    report = json.loads(place.command("report", str(run.run_dir), "--json").stdout)
    assert (report["status"], report["reason"], report["exit_code"]) == ("completed", "", 0)
    assert report == run.report


def test_results_of_a_dead_run_that_cannot_be_written_are_written_later(place: Place) -> None:
    run = place.sweep(POLITE, DONE=50)
    run.wait_marks("ready", 2)
    results = run.run_dir / "results.parquet"
    results.mkdir()
    run.kill_front()
    run.wait_report()
    run.assert_gone()
    assert run.report["combos_done"] >= 50
    assert any("could not be written" in error for error in run.report["errors"])
    assert "results: not written" in place.command("report", str(run.run_dir)).stdout
    results.rmdir()
    ended = place.command("report", str(run.run_dir), "--json")
    assert json.loads(ended.stdout) == run.report
    assert (run.report["combos_done"], run.report["errors"]) == (50, [])
    run.assert_nothing_lost(at_least=50)


def test_a_dead_run_whose_journals_cannot_be_read_has_a_report_that_says_so(place: Place) -> None:
    run = place.sweep(POLITE, DONE=50)
    run.wait_marks("ready", 2)
    (run.run_dir / "journal" / "worker-0009.bin").mkdir()
    run.kill_front()
    run.wait_report()
    run.assert_gone()
    assert run.report["combos_done"] == 0
    assert any("could not be written" in error for error in run.report["errors"])
    (run.run_dir / "journal" / "worker-0009.bin").rmdir()
    ended = place.command("report", str(run.run_dir), "--json")
    assert json.loads(ended.stdout)["combos_done"] == 50
    run.assert_nothing_lost(at_least=50)


def test_a_run_may_be_moved(place: Place, done: Started) -> None:
    there = done.run_dir.rename(place.root / "moved")
    ended = place.command("report", str(there))
    assert ended.returncode == 0, ended.stderr
    assert "moved" in ended.stdout


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{}", "not the plan of a run"),
        ("run.json", "[", "not a JSON file"),
        ("report.json", "{}", "not a run's report"),
        ("report.json", "x", "not a JSON file"),
        ("results.parquet", "x", "cannot be read"),
    ],
)
def test_damaged_files_are_named(
    place: Place, done: Started, name: str, content: str, said: str
) -> None:
    (done.run_dir / name).write_text(content)
    complaint = refused(place, str(done.run_dir))
    assert said in complaint
    assert name in complaint


def test_an_unknown_run_is_refused(place: Place) -> None:
    assert "no run 'nope'" in refused(place, "nope")
    assert "no run in ./runs yet" in refused(place)


RANKED = """
def f(bars, params, stop):
    a = params["a"]
    odd = {0: float("nan"), 1: float("inf"), 2: float("-inf")}
    return {"y": odd.get(a, float(a)), "trades": a, "none": None if a else float("nan")}
"""


def best_of(text: str) -> list[str]:
    """The line above the table, and the parameters of its rows."""
    lines = text.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("best by"))
    rows = [line.split() for line in lines[at + 2 :]]
    return [lines[at], *(row[0] for row in rows[: next(
        (n for n, row in enumerate(rows) if not row or not row[0].isdigit()), len(rows)
    )])]  # fmt: skip


def test_the_ranking_is_the_user_s_to_choose(place: Place) -> None:
    run = place.sweep(
        RANKED, "--sort", "y", "--ascending", "--min-trades", "5", n=9, json=False, workers=1
    )
    assert run.end() == 0, run.tell()
    asked = ["best by y, ascending, of those with at least 5 trades", "5", "6", "7", "8"]
    assert best_of(run.out) == asked
    there = str(run.run_dir)
    assert best_of(place.command("report", there).stdout) == asked
    again = place.command("report", there, "--sort", "y", "--min-trades", "0")
    assert best_of(again.stdout) == ["best by y", "8", "7", "6", "5", "4"]
    trades = place.command("report", there, "--sort", "trades", "--min-trades", "8")
    assert best_of(trades.stdout)[1:] == ["8"]
    none = place.command("report", there, "--min-trades", "9")
    assert "no combination has at least 9 trades and a finite y to rank by\n" in none.stdout
    none = place.command("report", there, "--sort", "none", "--min-trades", "0")
    assert "no combination has a finite none to rank by\n" in none.stdout


def test_an_unknown_metric_loses_no_rows(place: Place) -> None:
    run = place.sweep(RANKED, "--sort", "profit", n=9, json=False, workers=1)
    assert run.end() == 0, run.tell()
    assert "the run has no metric 'profit' to rank by; its metrics: y, trades" in run.out
    assert "the run has no metric 'profit' to rank by; its metrics: y, trades" in run.err
    assert len(run.results()) == 9
    assert "its metrics: y, trades" in refused(place, str(run.run_dir), "--sort", "nothing")
