"""`python -m bench gpu` as far as it goes without a GPU."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.gpu import (
    activities,
    bundle,
    expected,
    grids,
    helpers,
    kernels,
    kills,
    namespace,
    plan,
    poll_cost,
    published,
    release,
    shots,
    table,
)
from bench.gpu.backtests import started, swept
from bench.gpu.children import BACK_NS, READY_NS, Nursery, Shared, answer_of
from bench.gpu.command import main, summary
from bench.gpu.plan import STEPS, Step, choose, limit_of
from bench.gpu.probe import SOURCE
from bench.gpu.record import Finding, Status, StepRecord, read_all, read_findings
from bench.gpu.release import Ending, Way
from bench.gpu.runner import run_steps
from bench.gpu.sizes import GB, Sizes, fitting
from bench.gpu.step import Options
from bench.gpu.timed_device import covered
from bench.gpu.watch import NvmlDevice, settled_bytes, watch_release
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.errors import ConfigError
from supervisor.ipc.device_flag import Tier
from supervisor.market.example import example_bars
from supervisor.system import process
from tests.support.cli import ROOT
from tests.support.gpu.cupy_runs import EmulatedFlag
from tests.support.gpu.ptx import NVCC, compile_cuda, polls
from workers import catalog, reference

# -- the plan --------------------------------------------------------------------


def test_files_and_limits_fit_the_machine_that_is_lent():
    files = {step.file for step in STEPS} | {"summary.json", "table.md"}
    assert len(files) <= 8
    # what is short of time is cut from the end, and that is not where it hurts
    assert sum(step.limit_s for step in STEPS[:5]) <= plan.TOTAL_S


def test_every_step_has_a_module_that_measures_and_needs_no_gpu_to_be_imported():
    code = "import importlib, sys\n" + "".join(
        f"assert callable(importlib.import_module('bench.gpu.{step.module}').measure)\n"
        for step in STEPS
    )
    heavy = "{'cupy', 'torch', 'numba', 'typer', 'dill', 'llvmlite', 'pydantic'}"
    code += f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_steps_are_chosen_by_name_in_the_order_of_the_table():
    assert choose("") == STEPS
    assert [step.name for step in choose("kills, facts")] == ["facts", "kills"]
    with pytest.raises(ConfigError, match="no step 'speed'; there are facts, flag"):
        choose("speed")


@pytest.mark.parametrize(("left_s", "limit_s"), [(100, 30), (20, 20), (4.9, 0), (-1, 0)])
def test_a_step_has_its_limit_or_what_is_left(left_s, limit_s):
    assert limit_of(Step("x", "x", "x.json", 30, "X"), left_s) == limit_s


@pytest.mark.parametrize(
    ("free", "sizes"),
    [(139 * GB, (1, 20, 70)), (24 * GB, (1, 20)), (8 * GB, (1,)), (1 * GB, (1,))],
)
def test_sizes_adapt_to_the_free_memory(free, sizes):
    assert fitting((1, 20, 70), free) == sizes


def test_options_of_a_step_survive_the_command_line():
    options = Options("out", "expected.npz", Sizes.quick(), 12.5, 1)
    assert Options.from_json(options.to_json()) == options


# -- records ---------------------------------------------------------------------


def a_row(name: str = "x") -> Row:
    return compare(name, "ms", [1.0, 2.0, 4.0], target=Target(1), note="a | b")


def test_findings_are_on_disk_at_once_and_share_a_file(tmp_path):
    path = tmp_path / "facts.json"
    first = StepRecord.begin(path, "facts", "Facts")
    first.row(a_row())
    StepRecord.begin(path, "namespace", "Who sees whom").fact("pid", 7)
    StepRecord.resume(path, "facts").fact("driver", "580")
    found = read_findings(path)
    assert found["facts"].rows == [a_row()]
    assert found["facts"].facts == {"driver": "580"}
    assert found["namespace"].facts == {"pid": 7}
    assert found["facts"].status is Status.RUNNING
    shown = json.loads(path.read_text())["steps"]["facts"]["rows"][0]
    assert (shown["met"], shown["headline_unit"]) == (False, "ms")


def test_a_step_that_is_begun_again_forgets_what_it_had(tmp_path):
    path = tmp_path / "facts.json"
    StepRecord.begin(path, "facts", "Facts").row(a_row())
    assert StepRecord.begin(path, "facts", "Facts").finding.rows == []
    assert read_all(tmp_path, ["facts.json", "absent.json"])["facts"].rows == []


def test_files_of_another_format_are_refused(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text('{"format": 99, "steps": {}}')
    with pytest.raises(ConfigError, match="format 1"):
        read_findings(path)


# -- the runner ------------------------------------------------------------------


def script(code: str) -> Step:
    """A step that the runner of :func:`running` runs as this code."""
    return Step(code, "", "steps.json", 30, "A step")


def running(
    tmp_path: Path, *steps: Step, total_s: float = 60
) -> tuple[dict[str, Finding], list[str]]:
    said: list[str] = []

    def argv(step: Step, options: Options) -> list[str]:
        return [sys.executable, "-c", step.name, options.to_json()]

    found = run_steps(steps, tmp_path, tmp_path, Sizes.quick(), total_s, said.append, argv)
    return found, said


def test_a_failed_step_is_recorded_with_its_reason_and_the_next_one_runs(tmp_path):
    bad, good = script("raise ValueError('no such kernel')"), script("pass")
    found, said = running(tmp_path, bad, good)
    assert found[bad.name].status is Status.FAILED
    assert "no such kernel" in found[bad.name].why
    assert found[good.name].status is Status.DONE
    assert any("no such kernel" in line for line in said)
    assert read_findings(tmp_path / "steps.json") == found


def test_a_step_that_dies_silently_is_said_to_have_died(tmp_path):
    step = script("import os; os.kill(os.getpid(), 9)")
    found, _ = running(tmp_path, step)
    assert found[step.name].status is Status.FAILED
    assert "SIGKILL" in found[step.name].why


def test_a_step_that_hangs_is_ended_with_all_it_started(tmp_path):
    note = tmp_path / "pids"
    code = (
        "import os, time\n"
        "if os.fork() == 0: os.setsid()\n"
        f"os.write(os.open({str(note)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY),"
        " b'%d\\n' % os.getpid())\n"
        "time.sleep(60)"
    )
    hangs, next_one = dataclasses.replace(script(code), limit_s=5), script("pass")
    found, _ = running(tmp_path, hangs, next_one)
    assert found[code].status is Status.TIMED_OUT
    assert found["pass"].status is Status.DONE
    pids = [int(line) for line in note.read_text().split()]
    assert len(pids) == 2
    assert all(process.Identity.of(pid) is None for pid in pids)


def test_what_does_not_fit_is_recorded_as_not_run(tmp_path):
    step = script("pass")
    found, _ = running(tmp_path, step, total_s=1)
    assert found["pass"].status is Status.NOT_RUN
    assert "1 s" in found["pass"].why


# -- processes of a step ---------------------------------------------------------


def test_a_child_answers():
    assert answer_of(lambda: {"pid": os.getpid()}, 10)["pid"] != os.getpid()


def test_what_a_child_raises_is_the_reason():
    with pytest.raises(NotMeasuredError, match="ZeroDivisionError"):
        answer_of(lambda: 1 / 0, 10)


def test_a_child_that_dies_is_said_to_have_died():
    with pytest.raises(NotMeasuredError, match="SIGKILL"):
        answer_of(lambda: os.kill(os.getpid(), 9), 10)


def test_a_child_that_does_not_answer_is_ended():
    with pytest.raises(NotMeasuredError, match=r"0\.2 s"):
        answer_of(lambda: time.sleep(60), 0.2)


# -- the watch -------------------------------------------------------------------


class Clock:
    """Goes on by a millisecond each time it is read."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@dataclasses.dataclass
class Worker:
    """Ends at a time; holds memory until another time, and is listed until a third."""

    clock: Clock
    pid: int
    gone_at: float
    held: int
    free_at: float
    unlisted_at: float

    def gone(self, timeout_s: float = 0.0) -> bool:
        return self.clock.now >= self.gone_at


@dataclasses.dataclass
class Gpu:
    """A device whose memory the workers hold."""

    clock: Clock
    workers: list[Worker]
    uuid: str = "GPU-1"

    def used_bytes(self) -> int:
        return 5 * GB + sum(w.held for w in self.workers if self.clock.now < w.free_at)

    def pids(self) -> list[int]:
        return [7, *(w.pid for w in self.workers if self.clock.now < w.unlisted_at)]


def watched(*times: float, limit_s: float = 10.0, held: int = GB):
    clock = Clock()
    gone, free, unlisted = (100.0 + at for at in times)
    worker = Worker(clock, 42, gone, held, free, unlisted)
    device = Gpu(clock, [worker])
    return watch_release(device, [worker], 5 * GB, 100.0, limit_s=limit_s, clock=clock)


def test_each_clock_is_read_on_its_own():
    seen = watched(1.0, 2.0, 3.0)
    assert seen.gone_s == pytest.approx(1.0, abs=0.01)
    assert seen.baseline_s == pytest.approx(2.0, abs=0.01)
    assert seen.unlisted_s == pytest.approx(3.0, abs=0.1)
    assert seen.left_bytes == 0


def test_memory_may_be_back_before_the_process_is_gone():
    seen = watched(2.0, 1.0, 2.0)
    assert seen.baseline_s == pytest.approx(1.0, abs=0.01)


def test_memory_that_stays_is_said_to_stay():
    seen = watched(1.0, math.inf, 1.0, limit_s=3.0)
    assert math.isnan(seen.baseline_s)
    assert seen.left_bytes == GB
    assert seen.gone_s == pytest.approx(1.0, abs=0.01)


def test_what_differs_by_less_than_noise_is_back():
    assert watched(1.0, math.inf, 1.0, held=2**20).baseline_s < 0.1


def test_memory_taken_while_the_worker_was_dying_is_not_taken_for_back():
    class Late(Gpu):
        def used_bytes(self) -> int:
            return 5 * GB + (GB if 100.5 < self.clock.now < 101.5 else 0)

    clock = Clock()
    worker = Worker(clock, 42, 101.0, GB, 0.0, 101.0)
    seen = watch_release(Late(clock, [worker]), [worker], 5 * GB, 100.0, clock=clock)
    assert seen.baseline_s == pytest.approx(1.5, abs=0.01)


class Moving(Gpu):
    """A device that is still giving memory back: each reading is another."""

    readings: list[int]

    def used_bytes(self) -> int:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


def test_a_baseline_is_taken_when_memory_no_longer_moves():
    device = Moving(Clock(), [])
    device.readings = [9 * GB, 7 * GB, 5 * GB, 5 * GB + 4096]
    assert settled_bytes(device, sleep=lambda s: None) == 5 * GB + 4096
    device.readings = [n * GB for n in range(5000, 0, -1)]
    clock = Clock()
    assert settled_bytes(device, limit_s=1.0, clock=clock, sleep=lambda s: None) > GB
    assert clock.now < 102


# -- what is shown ---------------------------------------------------------------


def test_the_table_shows_figures_verdicts_and_reasons():
    missing = Row("y", "ms", target=Target(1), not_measured="no such thing")
    done = Finding("Stop", Status.DONE, took_s=3.0, rows=[a_row(), missing], facts={"a": "b|c"})
    failed = Finding("Rows", Status.FAILED, "Traceback\nValueError: x", took_s=2)
    machine = {"gpu": {"name": "NVIDIA H200", "driver": "580"}, "versions": {"torch": "2.11"}}
    text = table.document(machine, {"flag": done, "kernels": failed})
    assert "NVIDIA H200, driver 580, torch 2.11" in text
    assert "| x (a \\| b) | 2 ms (missed) | ≤ 1 | 1 · 1.5 · 3 · 4 |" in text
    assert "| y | not measured: no such thing | ≤ 1 |  |" in text
    assert "- a: b\\|c" in text
    assert "failed after 2 s: Traceback ValueError: x" in text


def test_the_summary_says_what_was_missed():
    found = {"flag": Finding("Stop", Status.DONE, rows=[a_row()])}
    said = summary("today", {"cpu": "x"}, Sizes(), found)
    assert said["steps"]["flag"] == {"status": "done", "why": "", "took_s": 0.0, "missed": ["x"]}
    assert json.loads(json.dumps(said))["sizes"]["kills"] == [0, 200]


# -- the command line --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out DIR is missing"),
        (["--out", "x", "--only", "speed"], "no step 'speed'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- steps against fakes -------------------------------------------------------------


def test_without_a_gpu_it_says_so_in_a_line_and_exits_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench", "gpu", "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("bench gpu: no GPU here: ")
    assert list(tmp_path.iterdir()) == []


def hold_and_listen(shared, slot, *, hold_gb, pinned_gb, kernel, leave):
    """Stands for :func:`bench.gpu.activities.hold` where there is no device."""
    if kernel == "none":
        os._exit(3)  # stands for a worker that gets no memory
    shared.flag.rearm()
    shared.signs.put(slot, READY_NS, time.monotonic_ns())
    shared.flag.wait(30)
    shared.signs.put(slot, BACK_NS, time.monotonic_ns())
    os._exit(0)


def be_busy(shared, slot, *, library, activity):
    """Stands for :func:`bench.gpu.activities.busy`."""
    if activity == "start":
        shared.signs.put(slot, READY_NS, 1)
        os._exit(3)
    shared.signs.put(slot, READY_NS, time.monotonic_ns())
    time.sleep(30)


class Memory(NvmlDevice):
    """A device whose memory is held as long as a process is."""

    def __init__(self, pids: list[int]) -> None:
        self.held_by = pids

    def used_bytes(self) -> int:
        return GB + GB * sum(process.state_letter(pid) not in (None, "Z") for pid in self.held_by)

    def pids(self) -> list[int]:
        return [pid for pid in self.held_by if process.state_letter(pid) not in (None, "Z")]


class Watched(Nursery):
    """A nursery whose workers' memory a device shows."""

    def start(self, body, slot=0, **arguments):
        child = super().start(body, slot, **arguments)
        self.device.held_by.append(child.pid)
        return child


@pytest.fixture
def nursery(monkeypatch, no_leaks):
    monkeypatch.setattr(activities, "hold", hold_and_listen)
    monkeypatch.setattr(activities, "busy", be_busy)
    with Watched(()) as nursery:
        nursery.device = Memory([])
        yield nursery


def test_a_worker_that_is_stopped_by_the_flag_gives_its_memory_back(nursery):
    by_flag = Ending(release.WAYS[1], 1)
    seen = release.end_one(nursery, nursery.device, by_flag, GB)
    assert seen["exit_code"] == 0
    assert 0 < seen["back_s"] <= seen["gone_s"]
    assert seen["baseline_s"] >= 0
    assert (seen["held_bytes"], seen["left_bytes"]) == (GB, 0)


def test_the_first_use_of_the_device_is_no_measurement(nursery):
    noted = {}
    baseline = release.warmed_up(nursery, nursery.device, noted.__setitem__)
    assert baseline == GB
    assert set(noted) == {"baseline_before_first_use_bytes", "baseline_bytes"}
    assert nursery.device.pids() == []


def test_a_worker_that_is_killed_says_nothing_of_its_kernel(nursery):
    seen = release.end_one(nursery, nursery.device, Ending(release.WAYS[0], 1), GB)
    assert seen["exit_code"] == -9
    assert seen["back_s"] is None


def test_a_worker_that_cannot_begin_is_the_reason(nursery):
    seen = release.end_one(nursery, nursery.device, Ending(Way("x", "none"), 1), GB)
    assert "ended before it was ready" in seen["why"]
    (row,) = release.rows_of([seen])
    assert "ended before it was ready" in row.not_measured


def test_a_volley_is_killed_and_watched(nursery):
    volley = [kills.Kill(index, "cupy", "kernel", 0.01 * index) for index in range(4)]
    nurseries = {"cupy": nursery, "torch": nursery}
    seen = kills.shoot(nurseries, nursery.device, volley, GB)
    assert [one["index"] for one in seen] == [0, 1, 2, 3]
    assert all(one["exit_code"] == -9 and one["left_bytes"] == 0 for one in seen)
    assert nursery.device.pids() == []


def test_a_worker_that_ended_by_itself_is_no_kill(nursery):
    volley = [kills.Kill(0, "cupy", "start", 0.2)]
    (seen,) = kills.shoot({"cupy": nursery}, nursery.device, volley, GB)
    assert seen["why"] == "it had ended by itself: exited with status 3"
    assert kills.rows_of([seen], [])[0].not_measured == seen["why"]


def test_a_library_that_is_not_there_costs_its_own_kills_alone(nursery):
    volley = [kills.Kill(0, "cupy", "kernel", 0.0), kills.Kill(1, "torch", "kernel", 0.0)]
    seen = kills.shoot({"cupy": nursery, "torch": "no torch"}, nursery.device, volley, GB)
    assert {one["index"]: one.get("why") for one in seen} == {0: None, 1: "no torch"}


def test_a_nursery_says_what_it_cannot_import(no_leaks):
    with pytest.raises(NotMeasuredError, match="no_such_library"):
        Nursery(("no_such_library",))


def test_a_worker_in_a_namespace_is_seen_from_both_sides(monkeypatch, no_leaks):
    monkeypatch.setattr(namespace, "_hold", lambda shared: hold_and_listen(
        shared, 0, hold_gb=1, pinned_gb=0, kernel="polling", leave="exit"))  # fmt: skip
    monkeypatch.setattr(namespace, "answers", os.getpid)
    try:
        seen = namespace.worker_in_a_namespace(Shared(), 0)
    except NotMeasuredError as error:
        pytest.skip(str(error))
    assert len(seen["worker"]) == 1
    assert seen["stopped_by_the_flag_s"] < 10
    assert process.Identity.of(seen["warden"]) is None


# -- plans and sums ------------------------------------------------------------------


def test_the_plan_of_kills_is_the_same_in_every_call_and_has_each_kind_as_often():
    made = kills.plan()
    assert made == kills.plan()
    assert len(made) == 200
    assert made[:100] == kills.plan()[:100]
    counts = Counter((kill.library, kill.activity) for kill in made)
    assert set(counts) == set(activities.ACTIVITIES)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert [len(volley) for volley in kills.volleys(made[:10], 4)] == [4, 4, 2]


def killed(index: int, **more):
    return {"index": index, "gone_s": 0.1, "baseline_s": 0.2, "unlisted_s": 0.2} | more


def test_kills_of_two_calls_are_joined_each_once():
    first, second = [killed(0), killed(1)], [killed(1, loops=7), killed(2)]
    assert [one["index"] for one in kills.merged([first, second])] == [0, 1, 2]
    assert kills.merged([first, second])[1]["loops"] == 7


def test_kills_come_to_what_matters():
    seen = [killed(0), killed(1, baseline_s=None), killed(2, gone_s=None), {"index": 3, "why": "x"}]
    rows = {row.name: row for row in kills.rows_of(seen, [45, 79])}
    assert rows["kills at random moments"].headline.median == 3
    assert rows["after which the device is not at its baseline"].headline.median == 1
    assert rows["after which the device is not at its baseline"].met is False
    assert rows["after which a process is left"].headline.median == 1
    assert rows["errors in the driver's log that matter"].headline.median == 1
    (unread,) = [row for row in kills.rows_of(seen, None) if "log" in row.name]
    assert "cannot be read" in unread.not_measured


def ended(group: str, floor: str, ms: float, **more):
    times = dict.fromkeys(("gone_s", "baseline_s", "unlisted_s", "back_s"), ms / 1000)
    return {"group": group, "floor": floor, "held_bytes": GB} | times | more


def test_a_release_is_compared_with_sigkill_round_by_round():
    floor, flag = Ending(release.WAYS[0], 1), Ending(release.WAYS[1], 1)
    seen = [ended(floor.group, floor.floor, ms) for ms in (100, 200, 300)]
    seen += [ended(flag.group, flag.floor, ms) for ms in (105, 210, 315)]
    rows = {row.name: row for row in release.rows_of(seen)}
    assert rows["1 GB: SIGKILL"].headline.median == 200
    assert rows["1 GB: flag, then _exit"].headline.median == pytest.approx(1.05)
    assert rows["1 GB: flag, then _exit"].met is True
    assert rows["1 GB: flag, then _exit"].details["at_baseline_ms"].median == 210


def test_memory_that_is_not_back_is_no_figure():
    one = ended("1 GB: SIGKILL", "1 GB: SIGKILL", 100)
    (row,) = release.rows_of([one, one | {"baseline_s": None}])
    assert row.not_measured == "not at its baseline 1 times of 2"


def test_ways_to_end_take_turns():
    planned = [ending.group for ending in release.endings(Sizes(), (1, 20, 70))]
    assert len(planned) == 50
    assert planned[:2] == ["1 GB: SIGKILL", "1 GB: flag, then _exit"]
    assert planned.count("70 GB: SIGKILL") == 3
    assert planned.count("1 GB and 8 GB pinned: SIGKILL") == 1


@pytest.mark.parametrize("strategy", grids.STRATEGIES)
@pytest.mark.parametrize("n", [1_000, 10_000, 1_000_000])
def test_grids_have_the_size_asked_for_and_are_accepted_whole(strategy, n):
    grid = grids.grid_of(strategy, n)
    assert catalog.check(strategy, grid).space(grid).total == grid.size == n


def test_expected_rows_are_those_of_the_cpu(tmp_path):
    path = tmp_path / "expected.npz"
    expected.compute(path, n_bars=3_000, combos=16)
    known = expected.load(path, example_bars(3_000))
    assert {rows.shape for rows in known.rows.values()} == {(16, 5)}
    assert all(rate > 0 for rate in known.per_s.values())
    row = reference.backtest("sma_cross", example_bars(3_000), {"fast": 5, "slow": 14})
    assert known.rows["sma_cross"][0, 0] == pytest.approx(row["total_return"], rel=1e-9)
    with pytest.raises(NotMeasuredError, match="other bars"):
        expected.load(path, example_bars(2_000))
    with pytest.raises(NotMeasuredError, match="no expected rows"):
        expected.load(tmp_path / "absent.npz", example_bars(2_000))


def test_rows_are_compared_bit_by_bit():
    rows = np.array([[1.0, np.nan], [2.0, 3.0], [0.0, 1.0]])
    assert expected.compare_rows(rows, rows) == expected.Difference(3, 0, 0.0)
    nudged = rows.copy()
    nudged[1, 0] = np.nextafter(2.0, 3.0)
    difference = expected.compare_rows(nudged, rows)
    assert difference.differing == 1
    assert 0 < difference.largest < 1e-15
    missing = rows.copy()
    missing[2, 1] = np.nan
    assert expected.compare_rows(missing, rows).largest == np.inf
    with pytest.raises(NotMeasuredError):
        expected.compare_rows(rows[:2], rows)


def test_rates_become_rows():
    known = expected.Expected({}, {"sma_cross": 1e4}, "a CPU")
    rates = {"1000": {"wall": [1e5], "device": [2e5]}, "1000000": {"wall": [3e6], "device": [4e6]}}
    seen = {"differing": 0, "largest": 0.0, "rates": rates}
    rows = {row.name: row for row in kernels.rows_of("sma_cross", seen, known)}
    assert rows["sma_cross: combinations/s at 1,000,000"].met is True
    assert rows["sma_cross: combinations/s at 1,000"].met is None
    assert rows["sma_cross: times one core of a CPU"].headline.median == 300
    assert sum("differ" in name for name in rows) == 2


def test_overheads_become_rows():
    same = [10.0, 10.0]
    seen = {"300": {"none": same, "in turns": [10.02, 10.04], "mapped": [30.0], "vram": same}}
    in_turns, mapped, vram = poll_cost.overhead_rows(seen)
    assert in_turns.headline.median == pytest.approx(0.3)
    assert mapped.headline.median == pytest.approx(200.0)
    assert (in_turns.met, mapped.met, vram.met) == (True, None, None)


def test_percentiles():
    assert shots.p99_of(list(range(101))) == 99.0
    assert shots.p99_of([7.0]) == 7.0


def test_overlapping_kernels_count_once():
    assert covered([(0.0, 2.0), (5.0, 6.0), (1.0, 3.0)]) == 4.0
    assert covered([]) == 0.0


def test_what_ncu_prints_is_read():
    (metric, name), *_ = kernels.METRICS.items()
    text = f'==PROF== Connected\n"ID","{metric}"\n"","%"\n"0","73.5"\n'
    assert kernels.metrics_in(text) == {name: 73.5}
    assert kernels.metrics_in("==ERROR== no permission") == {}


def test_what_compute_sanitizer_prints_is_read():
    assert helpers.errors_in("========= ERROR SUMMARY: 3 errors") == 3
    hazards = "========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)"
    assert helpers.errors_in(hazards) == 2
    assert helpers.errors_in("out of memory") is None


def test_every_example_of_the_documentation_is_stopped():
    found = {example.path.name: example for example in helpers.examples(helpers.EXAMPLES)}
    assert set(found) == {path.name for path in helpers.EXAMPLES.glob("*.py")}
    assert found["cupy_raw_module.py"].params == {"reversal": 0, "threshold": 0}


def test_xids_are_read_from_the_kernel_log():
    log = "[1.0] NVRM: Xid (PCI:0000:01:00): 45, pid=7\n[2.0] NVRM: Xid (PCI:0000:01:00): 79, x\n"
    assert kills.xids_in(log) == [45, 79]


# -- what is published -----------------------------------------------------------------


@pytest.mark.parametrize("document", published.DOCUMENTS)
def test_published_figures_are_the_measured_ones(document):
    text = (ROOT / document).read_text()
    table = published.DOCUMENTS[document](*published.results())
    assert published.with_table(text, table) == text, "run python -m bench gpu --publish DIR"


def test_what_was_not_measured_is_said_to_be_so():
    cells = [published.cell_of(line, {}) for line in published.FULL]
    assert set(cells) == {"not measured"}


def test_every_published_line_finds_its_row():
    """With rows as the steps name them: a line that is misspelt would say "not measured"."""
    by_step: dict[str, list[Row]] = {
        "flag": [
            *(shots.tail_row(f"request → worker's wait is over, tier {tier}", [1.0], None)
              for tier in Tier),
            *poll_cost.overhead_rows({"300": {way: [1.0] for way in ("none", *poll_cost.WAYS)}}),
        ],
        "release": release.rows_of([
            ended(ending.group, ending.floor, 100)
            for ending in release.endings(Sizes(), (1, 20, 70))
        ]),
        "kills": kills.rows_of([killed(0)], []),
        "torch": [compare("torch sma_cross: rate", "/s", [1.0])],
        "kernels": [],
    }  # fmt: skip
    known = expected.Expected({}, dict.fromkeys(grids.STRATEGIES, 1e4), "a CPU")
    rates = {n: {"wall": [3e6], "device": [4e6]} for n in ("10000", "1000000")}
    for strategy in grids.STRATEGIES:
        seen = {"differing": 0, "largest": 0.0, "rates": rates}
        by_step["kernels"] += kernels.rows_of(strategy, seen, known)
    found = {name: Finding(name, rows=rows) for name, rows in by_step.items()}
    for line in (*published.FULL, *published.BRIEF):
        assert published.cell_of(line, found) != "not measured", line


def test_results_of_two_calls_are_published_together(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "ROOT", tmp_path)
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results")
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{published.BEGIN}\nold\n{published.END}\nafter\n")
    monkeypatch.setattr(published, "DOCUMENTS", {"doc.md": published.full_table})
    for number in (0, 1):
        directory = tmp_path / f"call{number}"
        directory.mkdir()
        record = StepRecord.begin(directory / "kills.json", "kills", "Kills")
        record.fact("kills", [killed(number)])
        record.fact("xids", [])
        (directory / "summary.json").write_text('{"machine": {"gpu": {"name": "NVIDIA H200"}}}')
    published.publish([tmp_path / "call0", tmp_path / "call1"])
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "Machine: NVIDIA H200." in text
    assert "| workers of CuPy and PyTorch killed at random moments | 2 kills | 200 |" in text


# -- the bundle ------------------------------------------------------------------------


def test_wheels_are_unpacked_where_they_are_imported_from(tmp_path):
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/__init__.py", "x = 1\n")
    bundle.unpack(wheel, tmp_path / "site")
    assert (tmp_path / "site/thing/__init__.py").read_text() == "x = 1\n"


def test_the_command_of_a_bundle_names_what_is_in_it():
    said = bundle.command_line(Path("b"))
    assert said.startswith(
        "PYTHONPATH=$PWD:$PWD/b/site python3 -m bench gpu --expected b/expected.npz"
    )


# -- kernels, as far as a machine without a device runs them -------------------------------


class FlagThere(EmulatedFlag):
    """A stop flag as a chunk has it."""

    @property
    def array(self):
        return self.flag.array

    def is_set(self) -> bool:
        return self.flag.is_set()


@pytest.mark.parametrize("strategy", grids.STRATEGIES)
def test_rows_are_compared_with_those_that_travelled(strategy, tmp_path, devices):
    """The whole way of step `kernels`, with the same CUDA source on an emulated device."""
    n_bars, n = 5_000, 36
    expected.compute(tmp_path / "expected.npz", n_bars=n_bars, combos=n)
    bars = example_bars(n_bars)
    known = expected.load(tmp_path / "expected.npz", bars)
    grid = grids.grid_of(strategy, n)
    backtest = started("cupy", bars, grid, strategy, open_device=devices)
    rows = swept(backtest, n, FlagThere(), cuts=(7,)).rows
    assert expected.compare_rows(rows, known.rows[strategy]) == expected.Difference(n, 0, 0.0)


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_the_kernels_that_are_timed_poll_in_their_loops_and_the_twin_does_not(tmp_path):
    ptx = compile_cuda(SOURCE.read_text(), tmp_path)
    of = {entry.partition("(")[0]: entry for entry in ptx.split(".visible .entry ")[1:]}
    assert len(polls(of["polling"])) == 1
    assert len(polls(of["until_stopped"])) == 1
    assert polls(of["twin"]) == []
