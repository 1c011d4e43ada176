from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter

import pytest

import supervisor
from supervisor.api import Run
from supervisor.process import children
from tests.support.cli import Place, Started, kept_in
from tests.support.inside import Inside, sweep_inside
from tests.support.waiting import DEADLINE_S, wait_for

TIMES = {"grace_s": 0.3, "terminate_s": 0.2}

DIES = {
    "segfault": "import ctypes; ctypes.string_at(0)",
    "abort": "os.abort()",
    "os._exit": "os._exit(3)",
    "os._exit(0)": "os._exit(0)",
    "sys.exit": "sys.exit('enough')",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
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
            return {"sharpe": "text"}
        if params["a"] == 9:
            return None
        if params["a"] == 10:
            return {}
        if params["a"] == 11:
            return 3.0
        return row(params)
    """
    run = sweep_inside(inside, body, n=50)
    assert run.end() == 0, run.tell()
    failed = assert_only_these_failed(run, 50, {7, 8, 9, 10, 11})
    errors = {row["a"]: str(row["error"]) for row in failed}
    assert "ValueError: seven lines" in errors[7]
    assert all(errors.values())
    assert run.report["errors"] == []
    run.assert_gone()


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


def amid(inside: Place) -> Run:
    """A run of a built-in strategy's, amid a chunk: its one worker has the next one already."""
    grid = {"fast": range(5, 405), "slow": range(410, 2_410)}
    run = supervisor.sweep("sma_cross", grid, workers=1, run_dir=inside.root / "run")
    inside.inside.append(run)
    wait_for(
        lambda: (done := run.progress.done) > 10_000 and in_hand(run)[0] < done < in_hand(run)[1],
        "a batch of a chunk whose size is known",
    )
    return run


def in_hand(run: Run) -> tuple[int, int]:
    """Where the chunk begins and ends that the one worker computes."""
    (row,) = run._front._board.rows
    return int(row["chunk_start"]), int(row["chunk_stop"])


def test_a_worker_does_not_wait_for_the_warden_between_two_chunks(inside: Place) -> None:
    run = amid(inside)
    before, _ = in_hand(run)
    warden = Inside(inside, run).warden
    os.kill(warden, signal.SIGSTOP)
    try:
        wait_for(lambda: in_hand(run)[0] > before, "the next chunk")
    finally:
        os.kill(warden, signal.SIGCONT)
    report = run.stop()
    assert report.combos_done > before
    assert kept_in(run.run_dir) == Counter(range(report.combos_done))


def test_the_chunk_that_a_dead_worker_had_ahead_of_it_is_computed(inside: Place) -> None:
    run = amid(inside)
    (worker,) = children(Inside(inside, run).warden)
    os.kill(worker, signal.SIGKILL)
    before = run.progress.done
    wait_for(lambda: run.progress.done > before + 30_000, "some more chunks")
    report = run.stop()
    assert kept_in(run.run_dir) == Counter(range(report.combos_done)), "nothing was left out"
    (lost,) = report.errors
    assert "SIGKILL" in lost


def test_a_drain_leaves_the_chunk_ahead_alone(inside: Place) -> None:
    run = amid(inside)
    draining = threading.Thread(target=run.drain)
    draining.start()
    wait_for(lambda: '"draining"' in (run.run_dir / "events.jsonl").read_text(), "the drain")
    _, end_of_chunk = in_hand(run)
    draining.join(DEADLINE_S)
    assert (run.report.status, run.report.stop.level) == ("stopped", "drain")
    assert run.report.combos_done == end_of_chunk
    assert kept_in(run.run_dir) == Counter(range(end_of_chunk))


def test_what_dead_workers_had_not_kept_is_not_done(inside: Place) -> None:
    """Workers that die while the run ends: nobody comes after them."""
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

    receive = main.control.receive

    def die(link):
        if first("one") or first("two"):
            select.select([link], [], [])  # the chunk is in the line, and not looked at
            os._exit(9)
        return receive(link)

    main.control.receive = die

    def f(bars, params, stop):
        return row(params)
    """
    run = sweep_inside(inside, body, n=2, workers=1)
    assert run.end() == 0, run.tell()
    assert_only_these_failed(run, 2, set())
    assert len(run.report["errors"]) == 2


def test_a_combination_is_not_to_blame_for_a_worker_that_somebody_killed(inside: Place) -> None:
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
