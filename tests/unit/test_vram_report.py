"""VRAM in the report, as text, on the page, and in the facts that a finisher reads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.text import memory_lines
from supervisor.lifecycle.gpu import dead_run
from supervisor.records.command import CommandPlan
from supervisor.records.events import EventLog
from supervisor.records.report import GpuMemory, MemoryReport, Report
from supervisor.records.story import Story
from supervisor.report_page import sections
from supervisor.states import RunStatus
from supervisor.system.nvml import within
from supervisor.system.nvml_errors import NvmlUnavailable

MB = 2**20


def a_gpu(**changes: Any) -> GpuMemory:
    facts: dict[str, Any] = {
        "uuid": "GPU-1", "index": 0, "name": "H100", "baseline_bytes": 500 * MB,
        "peak_bytes": 20500 * MB, "after_bytes": 500 * MB, "freed_bytes": 20000 * MB,
        "back": True, "settled_s": 0.8, "source": "process",
    }  # fmt: skip
    return GpuMemory(**(facts | changes))


def a_memory(*gpus: GpuMemory, note: str = "") -> MemoryReport:
    memory = MemoryReport(MB, 9 * MB, MB, 8 * MB, settled_s=0.2, ram_settled_s=0.2)
    memory.add_vram(list(gpus), note)
    return memory


def a_report(memory: MemoryReport) -> Report:
    return Report("r", RunStatus.STOPPED, "SIGINT", 130, "none", 4, 2, 0, 1.5, "/r", memory=memory)


def test_the_sums_and_the_last_device_count() -> None:
    memory = a_memory(a_gpu(), a_gpu(uuid="GPU-2", settled_s=1.5))
    assert memory.vram_peak_bytes == 41000 * MB
    assert memory.vram_freed_bytes == 40000 * MB
    assert (memory.ram_settled_s, memory.vram_settled_s, memory.settled_s) == (0.2, 1.5, 1.5)


def test_what_is_not_back_or_not_measured_is_in_no_sum() -> None:
    memory = a_memory(a_gpu(), a_gpu(after_bytes=None, freed_bytes=None, back=None, settled_s=None))
    assert memory.vram_peak_bytes == 41000 * MB
    assert (memory.vram_after_bytes, memory.vram_freed_bytes) == (None, None)
    assert (memory.vram_settled_s, memory.settled_s) == (None, None)
    memory = a_memory(note="the run used no GPU")
    assert (memory.vram_peak_bytes, memory.settled_s) == (None, 0.2)


def test_a_report_with_gpus_comes_back_from_its_file() -> None:
    report = a_report(a_memory(a_gpu(note="n")))
    plain = json.loads(json.dumps(report.to_json()))
    plain["memory"]["of a later version"] = plain["memory"]["gpus"][0]["also"] = 1
    assert Report.from_json(plain) == report
    del plain["memory"]["gpus"], plain["memory"]["vram_note"], plain["memory"]["ram_settled_s"]
    assert Report.from_json(plain).memory is not None  # one of an earlier version
    plain["memory"]["gpus"] = [{**report.to_json()["memory"]["gpus"][0], "index": "0"}]
    with pytest.raises(TypeError):
        Report.from_json(plain)


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (a_gpu(), "freed 20,000 MB; back at its baseline after 0.800 s"),
        (a_gpu(settled_s=None), "freed 20,000 MB; back at its baseline"),
        (a_gpu(back=False, settled_s=None, note="why"), "; NOT back at its baseline (why)"),
        (
            a_gpu(after_bytes=None, freed_bytes=None, back=None, settled_s=None, note="lost"),
            "after not measured, freed not measured (lost)",
        ),
    ],
)
def test_a_line_for_each_gpu(gpu: GpuMemory, said: str) -> None:
    ram, vram = memory_lines(a_memory(gpu))
    assert ram.endswith("freed 8 MB; back at its baseline after 0.200 s")
    assert vram.startswith("VRAM of GPU 0 (H100): before 500 MB, peak 20,500 MB, after ")
    assert vram.endswith(said)


def test_why_there_is_no_figure_is_said() -> None:
    assert memory_lines(a_memory(note="the run used no GPU"))[1] == (
        "VRAM: not measured (the run used no GPU)"
    )
    # a report of an earlier version
    lines = memory_lines(MemoryReport(MB, 9 * MB, MB, 8 * MB, settled_s=0.2))
    assert lines[0].endswith("back at its baseline after 0.200 s")
    assert lines[1] == "VRAM: not measured"


def test_the_page_shows_each_gpu() -> None:
    memory = a_memory(a_gpu(name="<H100>"), a_gpu(back=False, settled_s=None, note="why"))
    page = sections.vram_section(memory.gpus)
    assert "&lt;H100&gt;" in page
    assert "<td>20,500 MB</td>" in page
    assert "<td>after 0.800 s</td>" in page
    assert "<td>no</td><td>why</td>" in page
    tiles = sections.tiles(a_report(memory))
    assert "peak VRAM" in tiles
    assert "not back at its baseline" in tiles
    assert "peak VRAM" not in sections.tiles(a_report(a_memory()))


# -- a dead run's facts ----------------------------------------------------------------------------


def a_story(run_dir: Path, **changes: Any) -> Story:
    log = EventLog(run_dir, "front")
    warden = EventLog(run_dir, "warden")
    log.emit("run_requested", elsewhere=False)
    warden.emit("run_started", ram_baseline_bytes=MB, containment="none")
    facts = {
        "uuid": "GPU-1", "index": 0, "name": "H100", "total_bytes": 80000 * MB, "minor": 0,
        "used_bytes": 500 * MB, "others": {"7": MB}, "why": "",
    }  # fmt: skip
    log.emit("vram_baseline", **(facts | changes))
    log.emit("vram_sampled", peak_bytes={"GPU-1": 9000 * MB})
    log.emit("vram_held", survivors=["pid 4 (python), state D"])
    log.close()
    warden.close()
    return Story.of(run_dir)


PLAN = CommandPlan("r", ("true",))


def test_a_finisher_knows_what_the_front_has_read(tmp_path: Path) -> None:
    story = a_story(tmp_path)
    (device,) = dead_run.devices_of(story)
    assert (device.before.used_bytes, device.peak_bytes) == (500 * MB, 9000 * MB)
    assert device.before.others == {7: MB}
    assert story.survivors == ["pid 4 (python), state D"]
    assert dead_run.devices_of(a_story(tmp_path, used_bytes="many")) == []


def test_a_run_that_ended_long_ago_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = a_story(tmp_path)
    monkeypatch.setattr(dead_run.gpu_files, "present", lambda: True)
    story.last_at = time.time() - dead_run.RECENT_S - 1
    errors: list[str] = []
    assert dead_run.measure(story, PLAN, errors) == []
    assert errors == []
    assert story.memory is not None
    (one,) = story.memory.gpus
    assert (one.baseline_bytes, one.after_bytes, one.back) == (500 * MB, None, None)
    assert "long ago" in one.note


def test_events_that_cannot_be_read_do_not_prevent_a_clean_up(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    assert dead_run.used_by(tmp_path) == {}


def test_a_call_that_does_not_return_is_given_up() -> None:
    import threading

    never = threading.Event()
    with pytest.raises(NvmlUnavailable, match="has not answered"):
        within(0.01, lambda: never.wait() and None)
    never.set()
