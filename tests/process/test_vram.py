"""VRAM of real runs under a fake NVML: before, peak, after, and who holds what is not back."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_reap import die, entries, escaped
from tests.support.cli import Place, Started
from tests.support.gpu.fake_nvml import MIB, UUID, FakeNvml, gpu, living, process
from tests.support.gpu.holder import hold, let_go
from tests.support.verdict import check_verdict
from tests.support.waiting import let_pass, wait_for

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

DONE = 10
SOON = ["--verify", "0.3"]

USES_GPU = """
def f(bars, params, stop):
    '''Has a GPU's files open, and stays until it is told to stop.'''
    if params["a"] < DONE:
        return row(params)
    held = [open(Path(DEV) / name) for name in ("nvidia0", "nvidia-uvm")]
    mark("ready")
    stop.wait()
    return None
"""

LEAVES_A_CHILD = """
import subprocess

def f(bars, params, stop):
    '''Starts a daemon that has inherited a GPU's files.'''
    if params["a"] < DONE:
        return row(params)
    if first("daemon"):
        held = [open(Path(DEV) / name) for name in ("nvidia0", "nvidia-uvm")]
        numbers = [file.fileno() for file in held]
        subprocess.Popen(["setsid", "--fork", "sleep", "1000"], pass_fds=numbers).wait()
    mark("ready")
    stop.wait()
"""


@pytest.fixture
def fake(tmp_path: Path, place: Place) -> FakeNvml:
    made = FakeNvml(tmp_path)
    place.env |= made.env
    return made


def started(
    place: Place, fake: FakeNvml, *options: str, body: str = USES_GPU, **kw: Any
) -> Started:
    return place.sweep(body, *SOON, *options, DONE=DONE, DEV=str(fake.files), **kw)


def facts(run: Started, name: str) -> list[dict[str, Any]]:
    return [fact for fact in map(json.loads, run.events.splitlines()) if fact["event"] == name]


def use(run: Started, fake: FakeNvml, *more: str, held: int = 300 * MIB) -> list[int]:
    """Have the library show the run's workers on the GPU; wait until the front has seen them."""
    pids = run.wait_marks("ready", 2)
    run.wait_for(lambda: fake.listed, "the baseline")  # a function waits for none
    fake.say(gpu(used=(100 * MIB) + 2 * held), *(process(pid, held) for pid in pids), *more)
    run.wait_for(lambda: facts(run, "front.vram_baseline"), "the baseline of a device in use")
    run.wait_for(lambda: facts(run, "front.vram_sampled"), "a sample")
    return pids


def test_before_peak_and_after_are_in_the_report(place: Place, fake: FakeNvml) -> None:
    fake.say(gpu(used=100 * MIB))
    run = started(place, fake)
    use(run, fake)
    fake.say(gpu(used=110 * MIB))
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    memory = run.report["memory"]
    assert memory["vram_baseline_bytes"] == 100 * MIB
    assert memory["vram_peak_bytes"] == 700 * MIB
    assert memory["vram_after_bytes"] == 110 * MIB
    assert memory["vram_freed_bytes"] == 590 * MIB
    (one,) = memory["gpus"]
    assert (one["uuid"], one["name"], one["back"], one["source"]) == (
        UUID, "Fake H100", True, "process",
    )  # fmt: skip
    assert one["settled_s"] == memory["vram_settled_s"] <= memory["settled_s"]
    assert memory["settled_s"] == max(memory["ram_settled_s"], memory["vram_settled_s"])
    assert run.report["errors"] == []
    said = place.command("report", str(run.run_dir)).stdout
    assert "VRAM of GPU 0 (Fake H100): before 100 MB, peak 700 MB, after 110 MB" in said
    run.assert_gone()


def test_vram_comes_back_with_the_processes(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake)
    pids = run.wait_marks("ready", 2)
    run.wait_for(lambda: fake.listed, "the baseline")
    fake.say(gpu(), *(living(pid, 1000 * MIB) for pid in pids))
    run.wait_for(lambda: facts(run, "front.vram_baseline"), "the baseline of a device in use")
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert run.report["errors"] == []
    (one,) = run.report["memory"]["gpus"]
    assert (one["peak_bytes"], one["freed_bytes"], one["back"]) == (2000 * MIB, 2000 * MIB, True)


def test_a_baseline_that_the_run_is_part_of_is_said_to_be_late(
    place: Place, fake: FakeNvml
) -> None:
    """A function waits for no baseline, and its processes may take all they need before it."""
    fake.say(gpu(), "block memory")
    run = started(place, fake)
    held = [process(pid, 300 * MIB) for pid in run.wait_marks("ready", 2)]
    fake.say(gpu(used=700 * MIB), *held)
    run.wait_for(lambda: facts(run, "front.vram_baseline"), "the baseline of a device in use")
    fake.say(gpu(used=100 * MIB))
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    (one,) = run.report["memory"]["gpus"]
    assert (one["baseline_bytes"], one["back"]) == (700 * MIB, True)
    assert "after the first fork" in one["note"]


def test_vram_that_comes_back_late_is_awaited(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake, "--verify", "60")
    pids = use(run, fake)
    run.signal(signal.SIGTERM)
    run.wait_for(lambda: facts(run, "front.finishing"), "the processes' end")
    # the driver lists a dead process for as long as a forked child has its descriptors
    fake.say(gpu(used=100 * MIB), process(pids[0], MIB))
    let_pass(0.5)
    assert not run.over, run.tell()
    fake.say(gpu())
    assert run.end() == 128 + signal.SIGTERM
    memory = run.report["memory"]
    assert memory["settled_s"] == memory["vram_settled_s"] > 0.5
    assert memory["gpus"][0]["back"] is True


def test_vram_that_is_not_back_is_said(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake)
    use(run, fake, process(os.getpid(), MIB))
    fake.say(gpu(used=300 * MIB), process(os.getpid(), MIB))
    # nobody of the run's is left: a remark, not a survivor
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    (error,) = run.report["errors"]
    assert error.startswith(f"GPU 0 (Fake H100, {UUID}): 299 MB more in use than before the run")
    assert "no holder was found" in error
    memory = run.report["memory"]
    assert (memory["gpus"][0]["back"], memory["settled_s"]) == (False, None)
    assert memory["ram_settled_s"] is not None
    said = place.command("report", str(run.run_dir)).stdout
    assert "NOT back at its baseline" in said


@pytest.mark.parametrize("ours", [True, False])
def test_a_holder_is_a_survivor_only_with_the_runs_cookie(
    place: Place, fake: FakeNvml, ours: bool
) -> None:
    run = started(place, fake)
    use(run, fake)
    run_id = facts(run, "front.run_requested")[0]["run_id"]
    holder = hold(
        fake.files / "nvidia0", fake.files / "nvidia-uvm",
        env={"ALLSTOP_RUN_ID": run_id if ours else "another-run"},
    )  # fmt: skip
    try:
        fake.say(gpu(used=600 * MIB), process(holder.pid, 600 * MIB if ours else "none"))
        code = run.stop()
        assert holder.poll() is None, "NVML's word is no reason for a signal"
        named = f"pid {holder.pid} (python"
        assert named in run.report["errors"][0], run.report["errors"]
        survivors = run.report["stop"]["survivors"]
        if ours:
            assert code == 3, run.tell()
            assert any(one.startswith(named) and "holds VRAM of GPU 0" in one for one in survivors)
        else:
            assert code == 128 + signal.SIGTERM, run.tell()
            assert survivors == []
        assert check_verdict(run.run_dir) == []
    finally:
        let_go(holder)
    if ours:
        fake.say(gpu())
        assert place.command("reap").returncode == 0


def test_a_stranger_that_grows_is_told_apart(place: Place, fake: FakeNvml) -> None:
    fake.say(gpu(used=100 * MIB), process(os.getpid(), 50 * MIB))
    run = started(place, fake, "--verify", "60")
    use(run, fake, process(os.getpid(), 50 * MIB))
    fake.say(gpu(used=2100 * MIB), process(os.getpid(), 2050 * MIB))
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    (one,) = run.report["memory"]["gpus"]
    assert (one["back"], one["source"]) == (True, "process")  # the baseline may have been late


def test_bytes_that_the_driver_does_not_tell_are_said(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake)
    pids = run.wait_marks("ready", 2)
    run.wait_for(lambda: fake.listed, "the baseline")
    fake.say(gpu(used=900 * MIB), process(pids[0], "none"))
    run.wait_for(lambda: facts(run, "front.vram_baseline"), "the baseline of a device in use")
    fake.say(gpu(used=900 * MIB), process(os.getpid(), "none"))
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    (one,) = run.report["memory"]["gpus"]
    assert (one["back"], one["source"]) == (False, "device")
    assert "does not tell the bytes" in one["note"]


def test_a_sandbox_names_no_process_here_but_descriptors_do(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake)
    run.wait_marks("ready", 2)
    run.wait_for(lambda: fake.listed, "the baseline")
    fake.say(gpu(used=900 * MIB), process(2**22 + 1, 800 * MIB))  # above any pid
    run.wait_for(lambda: facts(run, "front.vram_baseline"), "the baseline of a device in use")
    fake.say(gpu())
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert run.report["memory"]["gpus"][0]["back"] is True


def test_a_planned_gpu_is_read_before_the_warden_has_the_run(place: Place, fake: FakeNvml) -> None:
    fake.say(gpu(used=100 * MIB), gpu("GPU-other"))
    run = started(place, fake, "--device", f"cuda:{UUID}")
    run.wait_marks("ready", 2)
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    names = [json.loads(line)["event"] for line in run.events.splitlines()]
    assert names.index("front.vram_baseline") < names.index("front.run_requested")
    # reported, although no process of the run was seen on it
    (one,) = run.report["memory"]["gpus"]
    assert (one["uuid"], one["baseline_bytes"], one["back"]) == (UUID, 100 * MIB, True)
    assert one["note"] == ""


def test_a_stop_is_received_while_the_baseline_is_awaited(place: Place, fake: FakeNvml) -> None:
    fake.say(gpu(), "block processes")
    run = started(place, fake, "--device", f"cuda:{UUID}")
    run.wait_for((run.run_dir / "run.json").exists, "the plan")
    run.wait_for((run.run_dir / "events.jsonl").exists, "the front")
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert facts(run, "warden.run_started") == []


def test_a_baseline_that_does_not_come_is_not_awaited_for_long(
    place: Place, fake: FakeNvml
) -> None:
    fake.say(gpu(), "block processes")
    run = started(place, fake, "--device", f"cuda:{UUID}")
    run.wait_marks("ready", 2)
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert run.report["memory"]["gpus"] == []
    assert "VRAM could not be measured: NVML has not answered" in run.report["errors"][-1]


def test_a_run_that_uses_no_gpu_reports_none(place: Place, fake: FakeNvml) -> None:
    run = place.sweep("def f(bars, params, stop):\n    return row(params)\n", n=20)
    assert run.end() == 0, run.tell()
    memory = run.report["memory"]
    assert (memory["gpus"], memory["vram_peak_bytes"]) == ([], None)
    assert memory["settled_s"] == memory["ram_settled_s"]
    assert memory["vram_note"] == "the run used no GPU"


def test_what_strangers_do_meanwhile_is_not_the_runs(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake, body=USES_GPU.replace('"nvidia0", "nvidia-uvm"', ""))
    run.wait_marks("ready", 2)
    fake.say(gpu(used=900 * MIB), process(os.getpid(), 800 * MIB))
    let_pass(0.5)  # some samples
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert run.report["memory"]["gpus"] == []
    assert run.report["errors"] == []


def test_a_call_that_blocks_delays_neither_start_nor_stop(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake, "--verify", "60")
    use(run, fake)
    fake.say(*fake.lines, "block memory", "block processes")
    began = time.monotonic()
    run.signal(signal.SIGTERM)
    run.wait_for(lambda: facts(run, "front.finishing"), "the processes' end")
    assert time.monotonic() - began < 10, run.tell()
    fake.say(gpu())
    assert run.end() == 128 + signal.SIGTERM, run.tell()


def test_a_call_that_never_returns_ends_with_its_reason(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake)
    use(run, fake)
    fake.say(*fake.lines, "block memory")
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert any("NVML has not answered for" in error for error in run.report["errors"])
    (one,) = run.report["memory"]["gpus"]
    assert (one["after_bytes"], one["back"], one["peak_bytes"]) == (None, None, 700 * MIB)


def test_a_call_that_blocks_from_the_start_is_not_waited_for(place: Place, fake: FakeNvml) -> None:
    fake.say(gpu(), "block init")
    run = started(place, fake)
    run.wait_marks("ready", 2)
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert run.report["memory"]["gpus"] == []


def test_a_lost_device_is_said(place: Place, fake: FakeNvml) -> None:
    run = started(place, fake)
    use(run, fake)
    fake.say(gpu(error=15))
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert f"the driver has lost GPU {UUID}" in run.report["errors"][0]
    assert run.report["memory"]["gpus"][0]["back"] is None


def test_a_run_whose_front_was_killed_has_its_vram_measured(place: Place, fake: FakeNvml) -> None:
    fake.say(gpu(used=100 * MIB))
    run = started(place, fake)
    use(run, fake)
    fake.say(gpu(used=500 * MIB))
    run.kill_front()
    report = run.wait_report()
    (one,) = report["memory"]["gpus"]
    assert (one["baseline_bytes"], one["peak_bytes"]) == (100 * MIB, 700 * MIB)
    assert (one["after_bytes"], one["back"]) == (500 * MIB, False)
    assert any("400 MB more in use than before" in error for error in report["errors"])
    wait_for(lambda: not place.alive(), "the finisher's end")


def test_reap_says_how_much_came_back(place: Place, fake: FakeNvml) -> None:
    weak = ["--containment", "subreaper", "--grace", "0.3", "--terminate", "0.2"]
    run = started(place, fake, *weak, body=LEAVES_A_CHILD)
    use(run, fake)
    die(run)
    left = escaped(run)
    fake.say(gpu(), living(left.pid, 400 * MIB))
    said = json.loads(place.command("doctor", "--json").stdout)
    holders = next(one for one in said if one["name"] == "GPU holders")
    assert f"pid {left.pid} (sleep)" in holders["what"]
    assert "allstop reap" in holders["fix"]

    reaped = place.command("reap", "--json")
    assert reaped.returncode == 0, reaped
    (one,) = json.loads(reaped.stdout)["reaped"]
    assert any(f"pid {left.pid}" in killed for killed in one["processes_killed"])
    assert one["vram_freed_bytes"] == 400 * MIB


def test_a_holder_that_no_registry_knows_is_reaped_by_its_cookie(
    place: Place, fake: FakeNvml
) -> None:
    weak = ["--containment", "subreaper", "--grace", "0.3", "--terminate", "0.2"]
    run = started(place, fake, *weak, body=LEAVES_A_CHILD)
    run.wait_marks("ready", 2)
    die(run)
    escaped(run)
    for entry in entries(place):
        entry.unlink()
    said = place.command("reap", "--json")
    assert said.returncode == 0, said
    reaped = json.loads(said.stdout)["reaped"]
    (ended,) = [one for one in reaped if one["processes_killed"]]
    assert "held a GPU after its warden's death" in ended["notes"][0]
    wait_for(lambda: not place.alive(), "the holder's end")
