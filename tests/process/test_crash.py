from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import supervisor
from supervisor.api import Run
from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.example import example_bars
from supervisor.rows.journal import JournalWriter
from supervisor.system import process
from supervisor.system.process import children
from tests.support.cli import Place, Started, kept_in
from tests.support.inside import Inside, sweep_inside
from tests.support.waiting import DEADLINE_S, wait_for
from workers.main import ChunkInHand, Station

TIMES = {"grace_s": 0.3, "terminate_s": 0.2}

LEARNT = 70_000
"""Combinations of some µs after which chunks take half a second: 1, 16, 256, 4,096, 65,536."""

DIES = {
    "segfault": "import ctypes; ctypes.string_at(0)",
    "abort": "os.abort()",
    "os._exit": "os._exit(3)",
    "os._exit(0)": "os._exit(0)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


def assert_only_these_failed(run: Started, n: int, guilty: set[int]) -> list[dict[str, object]]:
    """Every other combination has its row; the guilty have an error."""
    rows = run.results()
    assert [row["a"] for row in rows] == list(range(n)), run.tell()
    failed = [row for row in rows if row.get("error") is not None]
    assert {row["a"] for row in failed} == guilty, run.tell()
    for row in rows:
        if row["a"] not in guilty:
            assert (row["sharpe"], row["twice"]) == (row["a"], 2 * row["a"])
    report = run.report
    assert report["combos_done"] == n
    assert report["combos_failed"] == len(guilty)
    return failed


@pytest.mark.parametrize("how", DIES.values(), ids=DIES)
def test_a_crash_is_traced_to_its_combination(inside: Place, how: str) -> None:
    body = f"""
    def f(bars, params, stop):
        if params["a"] == 137:
            {how}
        return row(params)
    """
    run = sweep_inside(inside, body, n=300)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    (failed,) = assert_only_these_failed(run, 300, {137})
    assert "combination" in str(failed["error"]) or "exit" in str(failed["error"])
    assert run.report["status"] == "completed"


def test_several_crashing_combinations_apart_and_side_by_side(inside: Place) -> None:
    guilty = {0, 5, 6, 200, 399}
    body = """
    def f(bars, params, stop):
        if params["a"] in GUILTY:
            os._exit(1)
        return row(params)
    """
    run = sweep_inside(inside, body, n=400, GUILTY=guilty)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert_only_these_failed(run, 400, guilty)


def test_an_exception_fails_its_combination_without_a_new_worker(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] == 7:
            raise ValueError("seven\\nlines")
        if params["a"] == 8:
            return {"sharpe": [1.0]}
        if params["a"] == 9:
            return None
        if params["a"] == 10:
            return {}
        if params["a"] == 11:
            return 3.0
        if params["a"] == 12:
            sys.exit("enough")
        if params["a"] == 13:
            raise KeyboardInterrupt
        return row(params)
    """
    run = sweep_inside(inside, body, n=50)
    assert run.end() == 0, run.tell()
    failed = assert_only_these_failed(run, 50, set(range(7, 14)))
    errors = {row["a"]: str(row["error"]) for row in failed}
    assert "ValueError: seven lines" in errors[7]
    assert errors[12].startswith("SystemExit: enough")
    assert errors[13].startswith("KeyboardInterrupt")
    assert all(errors.values())
    assert run.report["errors"] == []
    assert run.events.count('"warden.worker_started"') == 2
    run.assert_gone()


def test_a_row_of_the_table_never_says_of_one_chunk_what_was_kept_of_another(
    tmp_path: Path,
) -> None:
    """Its worker may be killed between any two words that it writes."""
    seen: list[tuple[int, ...]] = []

    class Row(np.ndarray):
        """Notes what a reader would see after each write."""

        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(key, value)
            (row,) = self.view(np.ndarray)
            seen.append(tuple(int(row[n]) for n in ("chunk_start", "chunk_stop", "kept_until")))

    table, flag = ProgressTable.create(1), StopFlag()
    table.rows = table.rows.view(Row)
    ours, theirs = messages.pair()
    with ours, theirs, JournalWriter(tmp_path / "worker-0000.bin", "run", 0) as journal:
        station = Station(0, 0, os.getpid(), theirs, flag, table, "run", tmp_path)
        for start, stop in ((1000, 1750), (0, 1000)):
            chunk = ChunkInHand(station, journal, start, stop)
            chunk.keep(start, ("sharpe",), np.ones((stop - start, 1)))
    assert {row[:2] for row in seen} >= {(1000, 1750), (0, 1000)}
    for start, stop, kept_until in seen:
        if (start, stop) in ((1000, 1750), (0, 1000)):
            assert kept_until in (0, start, stop)  # too little is harmless
    assert seen.index((0, 1000, 0)) < seen.index((0, 1000, 1000))


def test_what_is_in_no_journal_any_more_is_not_completed(place: Place) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] == 99:
            (HERE / "run" / "journal" / "worker-0000.bin").unlink()
        return row(params)
    """
    run = place.sweep(body, n=100, workers=1)
    assert run.end() == 1, run.tell()
    assert run.report["status"] == "failed"
    assert run.report["reason"].startswith("100 combinations"), run.report
    assert "allstop resume" in run.report["reason"]
    place.strategy("def f(bars, params, stop): return row(params)")
    again = place.start(place.argv("resume", str(run.run_dir), "--changed-code", "--json"))
    assert again.end() == 0, again.tell()
    again.assert_nothing_lost(100)
    again.assert_gone()


def test_a_lone_crash_fails_nothing(inside: Place) -> None:
    """An OOM kill, a stray signal: the chunk is simply tried again."""
    body = """
    def f(bars, params, stop):
        if params["a"] == 100 and first("crash"):
            os._exit(1)
        return row(params)
    """
    run = sweep_inside(inside, body, n=300)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert_only_these_failed(run, 300, set())
    assert len(run.report["errors"]) == 1
    assert "exited with status 1" in run.report["errors"][0]


def test_killing_workers_at_random_loses_and_doubles_nothing(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        mark("alive")
        if not os.path.exists(ENOUGH):
            time.sleep(0.01)  # it must not be over before it was killed often enough
        return row(params)
    """
    n, kills, enough = 10_000, 12, inside.root / "enough"
    run = sweep_inside(inside, body, n=n, ENOUGH=str(enough))
    run.wait_marks("alive", 2)
    generator = random.Random(20240229)
    warden = run.warden
    for _ in range(kills):
        before = len(run.kept())
        run.wait_for(lambda before=before: len(run.kept()) > before, "some progress")
        workers = children(warden)
        os.kill(generator.choice(workers), signal.SIGKILL)
        run.wait_for(lambda old=workers: set(children(warden)) != set(old), "its death noticed")
    enough.touch()
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert_only_these_failed(run, n, set())
    assert 1 <= len(run.report["errors"]) <= kills


def built_in(inside: Place, n_bars: int, name: str = "run") -> Run:
    """A run of a built-in strategy's, with one worker, that takes some seconds."""
    grid = {"fast": range(5, 605), "slow": range(610, 3_110)}
    run = supervisor.sweep(
        "sma_cross", grid, example_bars(n_bars), workers=1, run_dir=inside.root / name
    )
    inside.inside.append(run)
    return run


def suspended_amid(inside: Place, run: Run, so_far: str) -> int:
    """Suspend the one worker amid a chunk, by a counter of its row; return its pid."""
    wait_for(lambda: run.progress.done > LEARNT, "chunks of half a second")
    warden = Inside(inside, run).warden  # no sooner: the front itself waits for it to say so

    def caught() -> int:
        (worker,) = children(warden)
        os.kill(worker, signal.SIGSTOP)
        wait_for(lambda: process.state_letter(worker) == "T", "its suspension")
        (row,) = run._front.work._table.rows
        if row["chunk_start"] < row[so_far] < row["chunk_stop"]:
            return worker
        os.kill(worker, signal.SIGCONT)
        return 0

    return wait_for(caught, "a worker amid a chunk")


def with_one_ahead(inside: Place) -> tuple[Run, int, int]:
    """A run whose one worker is suspended amid a chunk, and has the next one already.

    Returns
    -------
    run : Run
    warden, worker : int
        Pids.
    """
    run = built_in(inside, 50_000)
    worker = suspended_amid(inside, run, "done")
    warden = Inside(inside, run).warden
    # asleep, it has done whatever there was to do, such as to hand out the next chunk
    wait_for(lambda: process.state_letter(warden) == "S", "a warden that waits")
    return run, warden, worker


def in_hand(run: Run) -> tuple[int, int]:
    """Where the chunk begins and ends that the one worker computes."""
    (row,) = run._front.work._table.rows
    return int(row["chunk_start"]), int(row["chunk_stop"])


def test_a_worker_does_not_wait_for_the_warden_between_two_chunks(inside: Place) -> None:
    run, warden, worker = with_one_ahead(inside)
    before, _ = in_hand(run)
    os.kill(warden, signal.SIGSTOP)
    try:
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: in_hand(run)[0] > before, "the next chunk")
    finally:
        os.kill(warden, signal.SIGCONT)
    report = run.stop()
    assert report.combos_done > before
    assert kept_in(run.run_dir) == Counter(range(report.combos_done))


def test_the_chunk_that_a_dead_worker_had_ahead_of_it_is_computed(inside: Place) -> None:
    run, _, worker = with_one_ahead(inside)
    _, end_of_chunk = in_hand(run)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: run.progress.done > end_of_chunk + 10_000, "some of the next chunk")
    report = run.stop()
    assert set(kept_in(run.run_dir)) == set(range(report.combos_done)), "nothing was left out"
    (lost,) = report.errors
    assert "SIGKILL" in lost


def test_a_drain_leaves_the_chunk_ahead_alone(inside: Place) -> None:
    run, _, worker = with_one_ahead(inside)
    _, end_of_chunk = in_hand(run)
    draining = threading.Thread(target=run.drain)
    draining.start()
    wait_for(lambda: '"draining"' in (run.run_dir / "events.jsonl").read_text(), "the drain")
    os.kill(worker, signal.SIGCONT)
    draining.join(DEADLINE_S)
    assert (run.report.status, run.report.stop.level) == ("stopped", "drain")
    assert run.report.combos_done == end_of_chunk
    assert kept_in(run.run_dir) == Counter(range(end_of_chunk))


def test_a_worker_that_dies_amid_a_chunk_changes_no_result(inside: Place) -> None:
    """What it had kept of the chunk is not computed again, and nothing is left out."""
    smooth = built_in(inside, 10_000, "smooth").wait(DEADLINE_S)
    assert smooth.status == "completed"
    run = built_in(inside, 10_000)
    worker = suspended_amid(inside, run, "kept_until")
    os.kill(worker, signal.SIGKILL)
    report = run.wait(DEADLINE_S)
    assert report.status == "completed"
    results = [inside.root / name / "results.parquet" for name in ("smooth", "run")]
    assert results[0].read_bytes() == results[1].read_bytes()
    assert len(kept_in(run.run_dir)) == report.combos_done


def test_what_dead_workers_had_not_kept_is_not_done(inside: Place) -> None:
    """Workers that die while the run ends are not replaced."""
    body = """
    def f(bars, params, stop):
        if params["a"] == 30:
            mark("ready")
            time.sleep(60)
        return row(params)
    """
    run = sweep_inside(inside, body, n=100, workers=1)
    run.wait_marks("ready", 1)
    assert run.run.progress.done == 30
    draining = threading.Thread(target=run.run.drain)
    draining.start()
    run.wait_for(lambda: '"draining"' in (run.run_dir / "events.jsonl").read_text(), "the drain")
    (worker,) = children(run.warden)
    os.kill(worker, signal.SIGKILL)
    draining.join(DEADLINE_S)
    assert run.run.progress.done == run.report["combos_done"] < 30


def test_a_combination_that_was_never_begun_is_not_to_blame(inside: Place) -> None:
    body = """
    import select
    from workers import main

    receive = main.messages.receive

    def die(link):
        if first("one") or first("two"):
            select.select([link], [], [])  # the chunk is in the line, and not looked at
            os._exit(9)
        return receive(link)

    main.messages.receive = die

    def f(bars, params, stop):
        return row(params)
    """
    run = sweep_inside(inside, body, n=2, workers=1)
    assert run.end() == 0, run.tell()
    assert_only_these_failed(run, 2, set())
    assert len(run.report["errors"]) == 2


def test_a_combination_is_not_to_blame_for_a_worker_killed_from_outside(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        if len(marked("here")) < 3:
            mark("here")
            time.sleep(60)
        return row(params)
    """
    run = sweep_inside(inside, body, n=1)
    for n in (1, 2, 3):
        (pid,) = set(run.wait_marks("here", n)) & set(children(run.warden))
        os.kill(pid, signal.SIGKILL)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert_only_these_failed(run, 1, set())
    assert len(run.report["errors"]) == 3


def test_a_row_that_was_kept_twice_counts_once(inside: Place) -> None:
    """A worker killed after its write and before it said so: the row is computed again."""
    body = """
    def f(bars, params, stop):
        import workers.main
        if params["a"] == 30 and first("torn"):
            workers.main.ChunkInHand._count = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return row(params)
    """
    run = sweep_inside(inside, body, n=100)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert max(run.kept().values()) == 2  # it did happen
    assert_only_these_failed(run, 100, set())


def test_a_worker_that_dies_before_it_can_work_is_replaced(inside: Place) -> None:
    """The second one comes through."""
    body = """
    if first("import"):
        os._exit(9)

    def f(bars, params, stop):
        return row(params)
    """
    run = sweep_inside(inside, body, n=20)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert_only_these_failed(run, 20, set())


@pytest.mark.parametrize("where", ["at import", "in every combination"])
def test_when_everything_crashes_the_run_fails_and_is_bounded(inside: Place, where: str) -> None:
    at_import = "os._exit(9)" if where == "at import" else ""
    body = f"""
    {at_import}
    def f(bars, params, stop):
        mark("tried")
        os._exit(9)
    """
    run = sweep_inside(inside, body, n=1_000_000)
    assert run.end() == 1, run.tell()
    run.assert_gone()
    report = run.report
    assert report["status"] == "failed"
    assert "dying" in report["reason"]
    assert len(list(inside.root.glob("tried-*"))) <= 200
    assert len(run.results()) == report["combos_done"] == report["combos_failed"]


def test_when_everything_crashes_from_some_point_on_what_came_before_is_kept(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] >= 60:
            os._exit(9)
        return row(params)
    """
    run = sweep_inside(inside, body, n=1_000_000)
    assert run.end() == 1, run.tell()
    run.assert_gone()
    assert run.report["status"] == "failed"
    run.assert_nothing_lost(60)
    rows = [row for row in run.results() if row["error"] is None]
    assert [row["a"] for row in rows] == list(range(60))


def test_a_block_of_crashing_combinations_does_not_end_the_sweep(inside: Place) -> None:
    """One bad value of one parameter fails its combinations, not the others."""
    body = """
    def f(bars, params, stop):
        if 10 <= params["a"] < 90:
            os._exit(9)
        return row(params)
    """
    run = sweep_inside(inside, body, n=400)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert_only_these_failed(run, 400, set(range(10, 90)))


def test_a_worker_lost_during_the_stop_is_not_replaced(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] < 20:
            return row(params)
        mark("ready")
        stop.wait()
        os._exit(5)
    """
    run = sweep_inside(inside, body, times=TIMES)
    run.wait_marks("ready", 2)
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    assert len(list((run.run_dir / "journal").iterdir())) == 2
    assert run.report["errors"] == []


def test_a_fork_that_comes_back_ends_there(inside: Place) -> None:
    """It would take chunks off the worker's line, and die with them."""
    body = """
    def f(bars, params, stop):
        if params["a"] == 5 and first("fork"):
            os.fork()
        elif params["a"] > 5:
            mark("goes-on")
        return row(params)
    """
    run = sweep_inside(inside, body, times=TIMES, n=300, workers=1)
    code = run.end()
    run.assert_gone()
    assert code == 0, run.tell()
    assert len(list(inside.root.glob("goes-on-*"))) == 1
    assert_only_these_failed(run, 300, set())
    assert run.run.progress.done == 300


def test_a_fork_that_comes_back_and_cannot_be_heard_ends_there_too(place: Place) -> None:
    """What it has printed cannot be written; it must not say so in the worker's name."""
    body = """
    def f(bars, params, stop):
        if params["a"] == 7 and os.fork() == 0:
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
            print("not flushed yet")
        return row(params)
    """
    place.env.pop("PYTHONUNBUFFERED", None)
    run = place.sweep(body, n=30)
    assert run.end() == 0, run.tell()
    assert sorted(run.kept()) == list(range(30))
    assert not [row for row in run.results() if row.get("error")]
    run.assert_gone()


def test_what_a_strategy_prints_goes_to_its_log(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        print("hello from", params["a"])
        print("oh dear", file=sys.stderr)
        return row(params)
    """
    run = sweep_inside(inside, body, n=20)
    assert run.end() == 0, run.tell()
    logs = "".join(log.read_text() for log in (run.run_dir / "logs").glob("worker-*.log"))
    assert "hello from 7" in logs
    assert "oh dear" in logs


def test_a_strategy_that_sets_the_flag_stops_the_run(inside: Place) -> None:
    """It was handed something with an Event's interface: ``set`` is a part of that."""
    body = """
    def f(bars, params, stop):
        if params["a"] == 40:
            stop.set()
        return row(params)
    """
    run = sweep_inside(inside, body, times=TIMES, n=10_000)
    assert run.end() == 143, run.tell()
    run.assert_gone()
    assert run.report["status"] == "stopped", run.tell()
    run.assert_nothing_lost(20)


def test_threads_and_children_of_a_strategy_that_crashes_are_gone(inside: Place) -> None:
    body = """
    import subprocess, threading
    def f(bars, params, stop):
        if params["a"] == 3 and first("child"):
            subprocess.Popen(["sleep", "1000"])
            threading.Thread(target=time.sleep, args=(1000,)).start()
            os._exit(1)
        return row(params)
    """
    run = sweep_inside(inside, body, times=TIMES, n=20)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    assert_only_these_failed(run, 20, set())


def test_the_same_grid_gives_the_same_file_however_often_it_crashed(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        if CRASH and params["a"] % 40 == 7 and first(f"crash{params['a']}"):
            os._exit(1)
        return row(params)
    """
    smooth = sweep_inside(inside, body, n=200, CRASH=False)
    assert smooth.end() == 0
    wanted = (smooth.run_dir / "results.parquet").read_bytes()
    smooth.run_dir.rename(inside.root / "smooth")
    rough = sweep_inside(inside, body, n=200, CRASH=True)
    assert rough.end() == 0, rough.tell()
    assert rough.report["errors"]
    assert (rough.run_dir / "results.parquet").read_bytes() == wanted
