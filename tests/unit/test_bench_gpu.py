"""`python -m bench gpu` as far as it goes without a GPU."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import plan, table
from bench.gpu.children import answer_of
from bench.gpu.command import main, summary
from bench.gpu.plan import STEPS, Step, choose, limit_of
from bench.gpu.record import Finding, Status, StepRecord, read_all, read_findings
from bench.gpu.runner import run_steps
from bench.gpu.sizes import GB, Sizes, fitting
from bench.gpu.step import Options
from bench.gpu.watch import watch_release
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.errors import ConfigError
from supervisor.system import process

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
    done = answer_of(lambda: os.spawnv(os.P_WAIT, sys.executable, ["python", "-c", code]), 60)
    assert done == 0


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
