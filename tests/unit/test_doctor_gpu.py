"""What ``doctor`` says of GPUs, under each state of a fake driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.doctor import gpu as checks
from supervisor.doctor import gpu_packages
from supervisor.doctor.finding import Finding, Status
from supervisor.system import gpu_files
from supervisor.system.install import advice
from tests.support.cli import ROOT
from tests.support.gpu.fake_nvml import MIB, UUID, FakeNvml, gpu, process

ASK = """
import json
from supervisor.doctor.gpu import CHECKS
found = [check() for _, check in CHECKS]
print(json.dumps([one.to_json() for one in found if one is not None]))
"""


@pytest.fixture
def fake(tmp_path: Path) -> FakeNvml:
    return FakeNvml(tmp_path)


def ask(fake: FakeNvml, **env: str) -> dict[str, dict[str, str]]:
    """The findings of a process of its own, by name: a library stays loaded."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | fake.env | {"PYTHONPATH": str(ROOT)} | env,
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)}


needs_binding = pytest.mark.skipif(
    not gpu_packages.importlib.util.find_spec("pynvml"), reason="nvidia-ml-py is not installed"
)


def test_without_a_driver_one_line_says_so(fake: FakeNvml, tmp_path: Path) -> None:
    nowhere = {gpu_files.DIRECTORY_VARIABLE: str(tmp_path / "none"), "PATH": str(tmp_path)}
    assert ask(fake, LD_LIBRARY_PATH="", **nowhere) == {
        "CUDA": Finding(
            "CUDA", Status.INFO, "no NVIDIA driver: runs compute on the CPU"
        ).to_json()
    }  # fmt: skip


@needs_binding
def test_devices_with_what_is_used(fake: FakeNvml) -> None:
    fake.say("driver 580.159", gpu(used=7 * MIB), process(os.getpid(), MIB))
    found = ask(fake)
    assert found["CUDA"]["status"] == "warning"  # there is no libcuda.so.1
    assert "driver 580.159, which runs CUDA up to 13.0" in found["CUDA"]["what"]
    assert found["CUDA"]["fix"]
    assert found["  GPUs"]["what"] == f"GPU 0 (Fake H100, {UUID}): 7 of 81,920 MB used"
    assert found["  persistence"]["status"] == "ok"
    assert found["GPU holders"]["status"] == "ok"
    assert "  MIG" not in found
    assert "  MPS" not in found


@needs_binding
@pytest.mark.parametrize(
    ("lines", "name", "status", "what"),
    [
        (["init 18"], "  GPUs", "warning", "have different versions: VRAM cannot be measured"),
        (["init 9"], "  GPUs", "warning", "the NVIDIA kernel driver is not loaded"),
        ([], "  GPUs", "warning", "NVML shows no device"),
        ([gpu(), "error memory 15"], "  GPUs", "problem", "has lost"),
        ([gpu(error=15), gpu("GPU-b")], "  GPUs", "problem", "GPU-b): 0 of 81,920 MB used; GPU 0"),
        ([gpu(), "error processes 999"], "  GPUs", "problem", "NVML answers"),
        ([gpu(persistence=0)], "  persistence", "warning", "off on GPU 0"),
        ([gpu(mig=1)], "  MIG", "warning", "usable instances: none"),
        (
            [gpu(mig=1), f"instance of=0 uuid=MIG-a total={MIB} used=0"],
            "  MIG", "info", "usable instances: MIG-a",
        ),
        ([gpu(used=3000 * MIB)], "GPU holders", "warning", "no process is seen on GPU 0"),
        ([gpu(used=MIB), "error memory_v2 13"], "  GPUs", "ok", "with what the driver keeps"),
    ],
)  # fmt: skip
def test_each_state_has_its_line_and_its_fix(
    fake: FakeNvml, lines: list[str], name: str, status: str, what: str
) -> None:
    fake.say(*lines)
    found = ask(fake)[name]
    assert found["status"] == status, found
    assert what in found["what"]
    assert found["fix"] or status in ("ok", "info")


@needs_binding
def test_mps_is_said_with_advice(fake: FakeNvml, tmp_path: Path) -> None:
    found = ask(fake, CUDA_MPS_PIPE_DIRECTORY=str(tmp_path))["  MPS"]
    assert found["status"] == "warning"
    assert str(tmp_path) in found["what"]
    assert "--grace" in found["fix"]


@needs_binding
def test_gvisor_is_said(fake: FakeNvml, tmp_path: Path) -> None:
    dmesg = tmp_path / "dmesg"
    dmesg.write_text("#!/bin/sh\necho '[ 0.0] Starting gVisor...'\n")
    dmesg.chmod(0o755)
    found = ask(fake, PATH=f"{tmp_path}:{os.environ['PATH']}")["  GPU figures"]
    assert "gVisor" in found["what"]


# -- CUDA, tried in another process --------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bool, str]]]:
    """What the trial of CUDA gives, and a machine with a driver that NVML says nothing of."""
    outcome = [(True, "13.0")]
    monkeypatch.setattr(checks, "try_out", lambda _what: outcome[0])
    monkeypatch.setattr(checks, "driver_present", lambda: True)
    monkeypatch.setattr(checks, "survey", checks.Survey)
    yield outcome


def test_cuda_that_does_not_start_says_why(tried: list[tuple[bool, str]]) -> None:
    assert checks.cuda().status is Status.OK
    for said, fix in (
        ("CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "reboot"),
        ("CUDA_ERROR_UNKNOWN", "nvidia-modprobe"),
        ("libcuda.so.1: cannot open shared object file", "--gpus all"),
    ):
        tried[0] = (False, said)
        found = checks.cuda()
        assert found.status is Status.WARNING
        assert said in found.what
        assert fix in found.fix


def test_the_trial_says_that_there_is_no_library() -> None:
    works, said = checks.try_out("cuda")
    assert works or "libcuda.so.1" in said or said.startswith("CUDA_")


# -- packages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "cupy", "torch", "status", "what"),
    [
        (13, {}, None, Status.INFO, "CuPy is not installed"),
        (13, {"cupy-cuda13x": "14.2"}, "13", Status.OK, "cupy-cuda13x 14.2; torch for CUDA 13"),
        (13, {"cupy-cuda12x": "14.2"}, None, Status.OK, "cupy-cuda12x 14.2"),
        (12, {"cupy-cuda13x": "14.2"}, None, Status.WARNING, "needs CUDA 13"),
        (12, {"cupy-cuda12x": "14.2"}, "13", Status.WARNING, "torch needs CUDA 13"),
        (12, {"cupy-cuda12x": "14.2"}, "cpu", Status.OK, "torch for the CPU only"),
        (0, {"cupy-cuda13x": "14.2"}, None, Status.OK, "cupy-cuda13x 14.2"),
        (12, {"cupy-cuda12x": "14", "cupy": "14"}, None, Status.PROBLEM, "overwrites files"),
    ],
)  # fmt: skip
def test_packages_are_compared_with_the_driver(
    driver: int, cupy: dict[str, str], torch: str | None, status: Status, what: str
) -> None:
    found = gpu_packages.judge(driver, cupy, torch)
    assert found.status is status
    assert what in found.what
    assert found.fix or status is Status.OK


def test_cupy_is_installed_for_the_drivers_cuda() -> None:
    for driver, extra in ((0, "cuda12"), (12, "cuda12"), (13, "cuda13")):
        assert advice(extra) in gpu_packages.judge(driver, {}, None).fix


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n", "13"),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", "cpu"),
        ("cuda = '12.8'\n", "12"),
    ],
)
def test_pytorch_is_read_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, built: str
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('imported')\n")
    (tmp_path / "torch" / "version.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # of another test's
    assert gpu_packages.torch_build() == built
