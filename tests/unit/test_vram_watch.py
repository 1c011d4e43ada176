"""The thread that watches a planned device, in a process of its own: a library stays loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import ROOT
from tests.support.gpu.fake_nvml import MIB, UUID, FakeNvml, gpu
from tests.support.waiting import wait_for

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

WATCH = """
import json, os, sys, threading, time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from supervisor.front import vram
from supervisor.records.events import EventLog
from supervisor.records.plan import Plan, Source

class OneGpu(Plan):
    __slots__ = ()
    devices = ("UUID",)
    spare_devices = ()

    def __init__(self, source):
        object.__setattr__(self, "run_id", "run-1")
        object.__setattr__(self, "source", source)

def say(**facts):
    print(json.dumps(facts), flush=True)

nudged, wakes = os.pipe()
watch = vram.VramWatch(
    OneGpu(Source.BUILT_IN), EventLog(Path(sys.argv[1]), "front"), lambda: os.write(wakes, b"x")
)
say(ready=watch.ready)
watch.start()
began = time.monotonic()
say(ready=watch.ready)
os.read(nudged, 1)
say(ready=watch.ready)
input()
since = time.monotonic()
watch.begin_end(since + 0.2)
found = watch.outcome(since, began + float(sys.argv[2]))
say(**asdict(found), threads=[one.name for one in threading.enumerate()])
watch.close()
sys.stdout.flush()
os._exit(0)
""".replace("UUID", UUID)


class Watching:
    def __init__(self, fake: FakeNvml, began_after_s: float = 60.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCH, str(fake.root), str(began_after_s)],
            env=os.environ | fake.env | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def said(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def end(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = self.said()
        self.process.communicate()
        return found


@pytest.fixture
def fake(tmp_path: Path) -> FakeNvml:
    return FakeNvml(tmp_path)


def test_a_run_waits_for_the_baseline_of_a_planned_device(fake: FakeNvml) -> None:
    fake.say(gpu(used=5 * MIB), "block init")
    watching = Watching(fake)
    assert watching.said() == {"ready": True}
    assert watching.said() == {"ready": False}
    fake.say(gpu(used=5 * MIB))
    assert watching.said() == {"ready": True}
    found = watching.end()
    (one,) = found["gpus"]
    assert (one["baseline_bytes"], one["back"], one["note"]) == (5 * MIB, True, "")
    assert found["errors"] == []
    facts = [json.loads(line) for line in (fake.root / "events.jsonl").read_text().splitlines()]
    assert facts[0]["event"] == "front.vram_baseline"
    assert facts[0]["used_bytes"] == 5 * MIB


def test_a_baseline_after_the_first_fork_is_said(fake: FakeNvml) -> None:
    watching = Watching(fake, began_after_s=-1.0)
    for _ in range(3):
        watching.said()
    (one,) = watching.end()["gpus"]
    assert "after the first fork" in one["note"]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["init 18"], "have different versions"),
        ([gpu("GPU-other")], f"NVML does not show {UUID}"),
        ([gpu(error=15)], f"NVML does not show {UUID}"),
    ],
)
def test_a_planned_device_that_cannot_be_measured_is_said(
    fake: FakeNvml, lines: list[str], why: str
) -> None:
    fake.say(*lines)
    watching = Watching(fake)
    for _ in range(3):
        watching.said()
    found = watching.end()
    assert found["gpus"] == []
    assert why in found["note"]
    (error,) = found["errors"]
    assert error.startswith("VRAM could not be measured: ")
    assert why in error


def test_an_error_in_the_middle_leaves_what_was_read(fake: FakeNvml) -> None:
    fake.say(gpu(used=5 * MIB))
    watching = Watching(fake)
    for _ in range(3):
        watching.said()
    events = fake.root / "events.jsonl"
    wait_for(lambda: "vram_sampled" in events.read_text(), "a sample")
    fake.say(gpu(used=5 * MIB), "error memory 999")
    found = watching.end()
    (one,) = found["gpus"]
    assert (one["baseline_bytes"], one["after_bytes"], one["back"]) == (5 * MIB, None, None)
    assert "NVML answers" in one["note"]
    assert "NVML answers" in found["errors"][0]


def test_a_built_in_on_the_cpu_loads_no_nvml(fake: FakeNvml) -> None:
    code = WATCH.replace(f'devices = ("{UUID}",)', "devices = ()")
    code = code.replace("os.read(nudged, 1)\n", "").replace("input()\n", "")
    done = subprocess.run(
        [sys.executable, "-c", code, str(fake.root), "0"],
        env=os.environ | fake.env | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["gpus"], found["note"]) == ([], "the run used no GPU")
    assert found["threads"] == ["MainThread"]  # only the thread loads NVML
