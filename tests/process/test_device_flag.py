"""A sweep whose workers sit in kernels of a GPU, which the fake driver plays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Place
from tests.support.gpu.fake_cuda import FakeCuda

IN_KERNEL = """
import ctypes

def f(bars, params, stop):
    '''Finishes the first DONE combinations, then waits for a kernel that only a stop ends.'''
    if params["a"] < DONE:
        return row(params)
    fake = ctypes.CDLL("libcuda.so.1")
    fake.fake_kernel_start.restype = ctypes.c_void_p
    kernel = ctypes.c_void_p(fake.fake_kernel_start(ctypes.c_uint64(stop.device_pointer)))
    mark("ready")
    stop.cuda.wait(lambda: fake.fake_kernel_done(kernel))
    mark("left")
    return row(params)  # incomplete, but the function has not looked at the flag itself
"""


@pytest.fixture
def gpu(place: Place) -> FakeCuda:
    home = place.root / "gpu"
    home.mkdir()
    fake = FakeCuda(home)
    place.env |= {name: fake.environment()[name] for name in ("LD_LIBRARY_PATH", "FAKE_CUDA")}
    return fake


@pytest.mark.parametrize(
    ("settings", "tier", "why"),
    [
        ("attribute 91 0", "mapped", ""),
        (
            "cuMemHostRegister_v2 801",
            "vram",
            "mapped: cuMemHostRegister_v2: CUDA_ERROR_NOT_SUPPORTED (801)",
        ),
    ],
)
def test_a_stop_ends_running_kernels(
    place: Place, gpu: FakeCuda, settings: str, tier: str, why: str
) -> None:
    gpu.set(settings)
    run = place.sweep(IN_KERNEL, DONE=10)
    run.wait_marks("ready", 2)
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.wait_marks("left", 2)
    report = run.report
    assert report["combos_done"] == 10, "what a stopped kernel left was taken for a result"
    assert [rung["name"] for rung in report["stop"]["rungs"] if rung["acted_on"]] == ["flag"]
    facts = [json.loads(line) for line in run.events.splitlines()]
    opened = [fact for fact in facts if fact["event"] == "warden.device_flag"]
    assert sorted(fact["serial"] for fact in opened) == [0, 1]
    assert {(fact["tier"], fact["why"]) for fact in opened} == {(tier, why)}


def test_the_warden_opens_no_device(place: Place, gpu: FakeCuda) -> None:
    run = place.sweep(IN_KERNEL, DONE=10)
    workers = run.wait_marks("ready", 2)
    warden = Path(f"/proc/{run.warden}/maps").read_text()
    assert "libcuda" not in warden
    assert all("libcuda" in Path(f"/proc/{pid}/maps").read_text() for pid in workers)
    assert run.stop() == 143


def test_a_wrong_tier_ends_the_run_at_once(place: Place) -> None:
    place.env["ALLSTOP_DEVICE_FLAG"] = "fast"
    run = place.sweep("def f(bars, params, stop):\n    return row(params)\n")
    assert run.end() == 2
    assert "ALLSTOP_DEVICE_FLAG=fast: known tiers are mapped, vram, waves" in run.err
